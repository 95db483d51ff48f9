"""One technique a file: pure tensor maths first, then a small runtime that holds its state for one sampling pass.

Nothing here knows a model or the webui; a runtime sees a `lib_attn.attention.Call` and answers it or declines.
A runtime is built as ``Runtime(settings, seeds, say)`` and has

- ``wants(layer) -> bool``: whether it may ever act on that layer (decides which layers are patched);
- ``attend(call) -> Tensor | None``: the layer's output ``[B, N, C]``, or None to leave the call to others.
"""

from lib_attn.techniques.near_sighted import NearSightedRuntime

RUNTIMES = {"near_sighted": NearSightedRuntime}
