"""One technique a file: pure tensor maths first, then a small runtime that holds its state for one sampling pass.

Nothing here knows a model or the webui. A runtime is built as ``Runtime(settings, seeds, say)`` and has those of the
following methods that it needs:

- ``wants(layer) -> bool``: whether it may ever act on that self-attention (decides which layers are patched), with
  ``attend(call) -> Tensor | None``: the layer's output ``[B, N, C]`` for a `lib_attn.attention.Call`, or None, and/or
  ``edits(call) -> bool`` and ``edit(call, q, k, v) -> (q, k, v, bias)``: changed projections ``[B, N, H, d]`` that
  others then attend with; ``extends`` says whether it adds keys, `bias` ``[B, 1, 1, keys]`` is added to their logits;
- ``wants_cross(layer)`` and ``cross(call) -> z | None`` for a `lib_attn.cross.CrossCall`;
- ``wants_features(block)`` and ``features(call) -> h | None`` for a `lib_attn.features.FeatureCall`;
- ``enter(call) -> kept rows | None`` with ``fill(call, row)``, and ``leave(call, output) -> output`` for a
  `lib_attn.boundary.UnetCall`; ``through`` and ``refill(call, h)`` when rows are left out between blocks only;
- ``pictures() -> {image: [h, w] in 0 … 1}``: what the pass has to show;
- ``bind(prediction, hooks, references, layout)``: what the host and the model are like, by keyword; ``compares``: it
  needs the negative rows; ``reads_text``: it needs the negative prompt's text.
"""

from lib_attn.techniques.contrast import ContrastRuntime
from lib_attn.techniques.key_mix import KeyMixRuntime
from lib_attn.techniques.near_sighted import NearSightedRuntime
from lib_attn.techniques.negative_skip import NegativeSkipRuntime

RUNTIMES = {
    "near_sighted": NearSightedRuntime,
    "negative_skip": NegativeSkipRuntime,
    "contrast": ContrastRuntime,
    "key_mix": KeyMixRuntime,
}
