"""Which variants a measurement compares with full attention."""

from __future__ import annotations

from dataclasses import dataclass

from lib_attn.lab.drawing.variants import Variant, parse_setting, preset_variants
from lib_attn.lab.measuring.peers import FREE, peer_variants
from lib_attn.lab.shared.errors import LabError
from lib_attn.techniques import TECHNIQUES


@dataclass(frozen=True)
class VariantChoice:
    """Variants by name.

    settings: of ours, as `lib_attn.lab.drawing.variants.parse_setting` reads them. presets: the shipped ones of
    near-sighted attention too; without any setting they are there in any case. only: names, empty for all.
    webui, slothful: folders of other people's methods.
    """

    settings: tuple[str, ...] = ()
    presets: bool = False
    only: tuple[str, ...] = ()
    webui: str | None = None
    slothful: str | None = None

    def variants(self, *, free: bool = True) -> tuple[list[Variant], list[str]]:
        """The variants, and a sentence for each method that was asked for and cannot be had here.

        Args:
            free: with self-attention that costs nothing, the end of what can be saved there.

        Raises:
            LabError: when there is no variant of a name, or two have the same.
        """
        peers, missing = peer_variants(self.webui, self.slothful)
        own = [parse_setting(text) for text in self.settings]
        if self.presets or not own:
            # A step says nothing of presets that leave steps out.
            alone = (v for t in TECHNIQUES if t.by_size for v in preset_variants(t.name) if v.techniques == (t.name,))
            own = [*alone, *own]
        variants = [*peers, *([FREE] if free else []), *own]
        if self.only:
            unknown = {*self.only} - {v.name for v in variants} - {"full"}
            if unknown:
                known = ", ".join(v.name for v in variants)
                raise LabError(f"There is no variant {sorted(unknown)[0]!r}: there are {known}.")
            variants, missing = [v for v in variants if v.name in self.only], []
        names = [v.name for v in variants]
        if len(set(names)) < len(names):
            twice = next(n for n in names if names.count(n) > 1)
            raise LabError(f"Two variants are named {twice!r}: give one another name ('NAME: tile=16').")
        return variants, missing
