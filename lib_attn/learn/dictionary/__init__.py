"""Learning a dictionary: atoms of a model's self-attention, and a style bank from pictures.

`pictures` shows pictures to a model, `atoms` condenses what passed, `build` makes the file. None of it knows a host:
the lab's command and the webui's tab hand in the model and what they have around it.
"""
