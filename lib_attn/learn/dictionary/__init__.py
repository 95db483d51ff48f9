"""Learning a dictionary: atoms of a model's self-attention, and a style bank from pictures.

`pictures` shows pictures to a model, `atoms` condenses what passed, `learner` makes the file. None of it knows a host:
whoever learns hands in the model and what stands around it.
"""
