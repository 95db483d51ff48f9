"""What a technique may do while a U-Net is at work: one class of hooks, each of which does nothing by itself.

A technique derives `Runtime` and writes the hooks it needs; `lib_attn.attach` calls them. They come in four kinds of
call, each with what it is given: self-attention (`lib_attn.unet.self_attention.Call`), cross-attention
(`lib_attn.unet.cross_attention.CrossCall`), whole blocks (`lib_attn.unet.blocks.BlockCall`) and the U-Net's boundary
(`lib_attn.unet.batch.UnetCall`). Nothing here knows a host. The design follows diffusers' ``hooks/hooks.py``: a base
class with no-op methods, so that a hook's absence needs no look-up and a misspelt one is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lib_attn.learned.files import LearnedFile, Loader, family_of_layers
from lib_attn.learned.header import Refused
from lib_attn.store import Store
from lib_attn.unet.flight import HostHooks
from lib_attn.unet.layers import Block, Layer, layer_keys
from lib_attn.unet.rows import Row
from lib_attn.unet.self_attention import Call

if TYPE_CHECKING:
    import torch

    from lib_attn.unet.batch import UnetCall
    from lib_attn.unet.blocks import BlockCall
    from lib_attn.unet.cross_attention import CrossCall


@dataclass(frozen=True)
class Context:
    """What is known when a sampling pass begins.

    seeds: one per image of the batch. say: takes a sentence for the user; each is passed on once. prediction: what the
    model predicts, ``epsilon`` or ``v``. hooks: what the host does inside attention. layers, blocks: of the model.
    store: what techniques keep from one pass to the next. files: loads learned files.
    """

    seeds: tuple[int, ...] = ()
    say: Callable[[str], None] = lambda text: None
    prediction: str = "epsilon"
    hooks: HostHooks = field(default_factory=HostHooks)
    layers: tuple[Layer, ...] = ()
    blocks: tuple[Block, ...] = ()
    store: Store = field(default_factory=Store)
    files: Loader = field(default_factory=Loader)

    @property
    def layout(self) -> tuple[tuple[str, int], ...]:
        """Names and widths of the model's attention layers; what was kept of one layout fits no other."""
        widths = (getattr(layer.attn1.to_q, "in_features", 0) for layer in self.layers)
        return tuple(zip(layer_keys(self.layers), widths, strict=True))

    def learned(self, kind: str, value: str) -> LearnedFile:
        """The learned file of a kind that `value` (``name`` or ``name#hash``) means, which fits the model.

        Raises:
            Refused: with one sentence for the user, who is to be told it; the technique then does nothing.
        """
        file = self.files.load(kind, value, self.say)
        if not self._fits(file.family, file.layers):
            raise Refused(file.name, "it was learned for another kind of model")
        return file

    def fitting(self, kind: str) -> list[str]:
        """Names of the learned files of a kind that were learned for such a model, by their headers alone.

        Files that draw normals are left out: depth is what is meant where nothing is chosen. So are files that others
        have made, which do not say what they are for: one may be any LoRA with "depth" in its name.
        """
        folders = self.files.folders()
        told = {name: folders.told_by(name) for name in folders.names(kind)}
        told = {name: about for name, about in told.items() if about.get("map") != "normal"}
        ours = {name: about for name, about in told.items() if about.get("family")}
        return [name for name, about in ours.items() if self._fits(about["family"], about.get("layers", {}))]

    def _fits(self, family: Any, layers: Any) -> bool:
        # What others have made says nothing of the model; it is found out when it is put on.
        if family == "":
            return True
        known = family == family_of_layers(self.layers) and isinstance(layers, dict)
        return known and layers.items() <= dict(self.layout).items()


class Runtime:
    """One technique over one sampling pass; made anew for each pass, and holding all its state.

    Args:
        settings: the technique's settings group. context: see `Context`.

    Attributes:
        extends: it adds keys, so that fast paths of others, which count on as many keys as tokens, stand back.
        narrows: it changes the width of heads, so it edits after all others.
        compares: it needs the negative's rows.
        reads_text: it needs the negative prompt's text.
        through: number of outer blocks that rows left out by `enter` still pass; 0: they are left out of all.

    A subclass may define only what is declared here, names with an underscore and what it overrides; anything else
    raises TypeError when the class is made, because a misspelt hook would otherwise never be called.
    """

    extends = False
    narrows = False
    compares = False
    reads_text = False
    through = 0

    def __init__(self, settings: Any, context: Context):
        self._settings, self._context, self._say = settings, context, context.say

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        unknown = [name for name in vars(cls) if not name.startswith("_") and not hasattr(Runtime, name)]
        if unknown:
            raise TypeError(f"{cls.__name__} defines {', '.join(unknown)}, which is no hook of Runtime")

    @classmethod
    def has(cls, hook: str) -> bool:
        """Whether the class defines `hook` itself."""
        return getattr(cls, hook) is not getattr(Runtime, hook)

    # Self-attention

    def wants_self(self, layer: Layer) -> bool:
        """Whether it may ever act on the self-attention of `layer`; asked once, decides which layers are patched."""
        return False

    def wants_skip(self, layer: Layer) -> bool:
        """Whether it needs to know what the self-attention of `layer` is added to; asked once."""
        return False

    def edits(self, call: Call) -> bool:
        """Whether `edit` is to be called. Asked at every call of a wanted layer, so notes may be taken here."""
        return False

    def edit(
        self, call: Call, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Changed projections ``[B, N, H, d]``, k and v of any number of keys, and a bias ``[B, 1, 1, keys]`` or None.

        Whatever attends afterwards, another technique too, works on these.
        """
        return q, k, v, None

    def result(self, call: Call, out: torch.Tensor) -> torch.Tensor:
        """What is projected back, given the attention's result ``[B, N, H, width of v]``; asked of whoever edited."""
        return out

    def attend(self, call: Call) -> torch.Tensor | None:
        """The layer's output ``[B, N, C]``, or None to leave it to the next technique and at last to full attention."""
        return None

    # Cross-attention

    def wants_cross(self, layer: Layer) -> bool:
        """Whether it may ever act on the cross-attention of `layer`; asked once."""
        return False

    def cross(self, call: CrossCall) -> torch.Tensor | None:
        """The result ``[B, N, C]`` before the output projection, or None when it is not changed."""
        return None

    # Blocks

    def wants_features(self, block: Block) -> bool:
        """Whether it may ever act on what `block` hands on; asked once."""
        return False

    def features(self, call: BlockCall) -> torch.Tensor | None:
        """The block's output ``[B, C, h, w]``, or None when it is not changed."""
        return None

    # Batch rows, at the U-Net's boundary

    def enter(self, call: UnetCall) -> Sequence[int] | None:
        """Indices of the rows to compute, None for all; see `lib_attn.unet.batch` for who may leave rows out when."""
        return None

    def take_back(self) -> None:
        """A call with rows left out has failed and is made again with all of them: nothing is left out after all."""

    def fill(self, call: UnetCall, row: Row) -> torch.Tensor | float:
        """What a row left out would have predicted, ``[C, h, w]``."""
        raise NotImplementedError(f"{type(self).__name__} leaves rows out and does not fill them")

    def refill(self, call: UnetCall, h: torch.Tensor) -> torch.Tensor | None:
        """Features ``[B, C, h, w]`` of all rows behind the inner blocks, given those of the rows computed.

        None leaves them as they are.
        """
        return None

    def leave(self, call: UnetCall, output: torch.Tensor) -> torch.Tensor:
        """The prediction ``[B, C, h, w]`` of all rows, changed or as it came."""
        return output

    def learn(self, call: UnetCall, output: torch.Tensor) -> None:
        """Take note of the final prediction ``[B, C, h, w]`` of all rows of a call.

        Whoever has this hook forecasts: he is asked first which rows to compute, and nobody changes what he fills in.
        """

    # What the pass has to show and to say

    def why_idle(self) -> str | None:
        """Why it did nothing, as whole sentences; None when it cannot be said. What its preview says comes first."""
        return None

    def pictures(self) -> dict[int, torch.Tensor]:
        """For each image a map ``[h, w]`` with values 0 … 1 for the gallery."""
        return {}
