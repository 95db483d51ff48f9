"""From a checkpoint, a prompt and a seed to a picture, as a webui draws it; `page` does so in a browser.

A `Variant` is what is put on the model meanwhile: nothing, settings of ours, or somebody else's method.
May import: `lib_attn.lab.shared`, and of `lib_attn` all but the lab's other rooms and `learn`.
"""
