"""A small text-to-image model in Stable Diffusion 1.x layout, trained from nothing on rendered scenes.

Stages, each resumable: `scenes` are rendered, the `vae` is trained, `latents` are cached, `unet` trains the
U-Net with the text encoder, `export` writes one safetensors file and the yaml that goes with it.
May import: `lib_attn.learn.scenes`, and the lab's `shared` and `drawing`.
"""
