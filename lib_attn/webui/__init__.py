"""The stable-diffusion-webui side: everything that imports the host's ``modules`` or gradio, and no maths.

Nothing in here registers a callback when imported; `scripts/attention_lab.py` does, because the host drops all
callbacks on "Reload UI" and runs that file again while this package stays imported.
"""
