"""How far the output of self-attention is from full attention's, layer by layer, while a picture is drawn in full."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from lib_attn.lab.drawing.checkpoint import LabModel
from lib_attn.lab.drawing.sampling import Request, sample
from lib_attn.lab.drawing.variants import SamplingPass, Variant
from lib_attn.lab.shared.distances import relative_l2
from lib_attn.unet.families import find_layers


def output_errors(model: LabModel, request: Request, variant: Variant) -> dict[str, list[float]]:
    """Relative L2 of each layer's self-attention at every call in which it differs from full attention, by block.

    The picture goes on with the exact output, so that no error feeds the next.
    """
    found: dict[str, list[float]] = {}
    sample(model, request, _Beside(found, **vars(variant)))
    return found


class _Beside(Variant):
    """A variant whose outputs are compared and thrown away."""

    def __init__(self, found: dict[str, list[float]], **fields: Any):
        super().__init__(**fields)
        object.__setattr__(self, "_found", found)

    @contextlib.contextmanager
    def on(self, unet: Any, ahead: SamplingPass, *told: Any) -> Iterator[Any]:
        with super().on(unet, ahead, *told) as begin, contextlib.ExitStack() as stack:
            for layer in find_layers(unet):
                if "forward" in vars(layer.attn1):
                    stack.enter_context(_compared(layer, self._found.setdefault(layer.name, [])))
            yield begin


@contextlib.contextmanager
def _compared(layer: Any, errors: list[float]) -> Iterator[None]:
    module, ours = layer.attn1, layer.attn1.forward

    def forward(x: Any, context: Any = None, mask: Any = None) -> Any:
        exact = type(module).forward(module, x, context, mask)
        error = relative_l2(ours(x, context, mask), exact)
        if error:
            errors.append(error)
        return exact

    module.forward = forward
    try:
        yield
    finally:
        module.forward = ours
