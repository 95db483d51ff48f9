"""What other extensions have put into a U-Net, found without touching any of it.

Whoever hooks a block or an attention layer may count on every row being there: splitting a batch in two, remembering
its size, or taking the last row for the negative. What a model's classes themselves do (LoRA, attention optimisations)
treats each row alike and is no matter here.
"""

from __future__ import annotations

import dis
import functools
import inspect
import types
from collections.abc import Callable, Iterable
from typing import Any

from lib_attn.unet.layers import Block, Layer

OWN = __name__.partition(".")[0]
#: Packages whose hooks and forwards treat each row alike: torch's own, and a host's memory management.
HARMLESS = frozenset({OWN, "torch", "modules"})
#: Parts of video models' attention, which works across rows.
ACROSS_ROWS = ("Motion", "Temporal")


def package_of(function: Any) -> str:
    """Name of the package or script that a function, a bound method, a partial or a callable object comes from."""
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__module__", None) or type(function).__module__).partition(".")[0]


def looks_at_arguments(function: Any) -> bool:
    """Whether a callback's code uses what it is given at all; one that only counts steps (FreeU's) does not.

    Of anything but a plain function it is assumed.
    """
    if not isinstance(function, types.FunctionType):
        return True
    code = function.__code__
    lists = sum(bool(code.co_flags & flag) for flag in (inspect.CO_VARARGS, inspect.CO_VARKEYWORDS))
    given = code.co_argcount + code.co_kwonlyargcount + lists
    names = set(code.co_varnames[:given])
    local = (step.argval for step in dis.get_instructions(code) if "FAST" in step.opname)
    used = {name for found in local for name in (found if isinstance(found, tuple) else (found,))}
    return not names.isdisjoint(used.union(code.co_cellvars))


def is_replaced(module: Any, name: str = "forward") -> bool:
    """Whether `module` itself has another method `name` than its class; what only repeats the class is none."""
    found = vars(module).get(name)
    # A method that an extension saved and put back is the class's own; ours says what it was put in front of.
    while found is not None and package_of(found) == OWN and not isinstance(found, functools.partial):
        found = getattr(found, "before", None)
    return found is not None and getattr(found, "__func__", None) is not getattr(type(module), name, None)


class Neighbours:
    """Looks after other extensions' changes inside one U-Net.

    Args:
        layers, blocks: the U-Net's, found once.
        harmless: ``harmless(module) -> bool``: whether a replaced method of this module treats each row alike.
    """

    def __init__(self, layers: Iterable[Layer], blocks: Iterable[Block], harmless: Callable[[Any], bool]):
        self._harmless = harmless
        watched: dict[int, tuple[str, Any]] = {}
        for block in blocks:
            watched[id(block.module)] = block.name, block.module
        for layer in layers:
            for part in (layer.transformer, layer.block, layer.attn1, layer.attn2):
                for module in (part, *(getattr(part, name, None) for name in ("to_q", "to_k", "to_v", "to_out"))):
                    if hasattr(module, "_forward_hooks"):
                        watched[id(module)] = layer.name, module
        self._watched = tuple(watched.values())
        self._blocks = tuple(blocks)

    def found(self) -> str | None:
        """Name of a block in which somebody may count on every row, None when nobody does."""
        for name, module in self._watched:
            attributes = vars(module)
            hooks = attributes["_forward_hooks"], attributes["_forward_pre_hooks"]
            if any(package_of(hook) not in HARMLESS for kind in hooks for hook in kind.values()):
                return name
            if "forward" in attributes or "_forward" in attributes:
                replaced = is_replaced(module) or is_replaced(module, "_forward")
                if replaced and not self._harmless(module):
                    return name
        for block in self._blocks:
            for part in vars(block.module)["_modules"].values():
                if any(word in type(part).__name__ for word in ACROSS_ROWS):
                    return block.name
        return None
