"""What the user can set for the dictionary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lib_attn.schema import OF_STEPS, PIXELS, Technique, param


@dataclass(frozen=True)
class Dictionary(Technique):
    """Self-attention against the atoms of a dictionary, and pictures that share the look of a style bank."""

    name: ClassVar[str] = "dictionary"
    label: ClassVar[str] = "Dictionary"
    blocks_help: ClassVar[str] = "Where self-attention is computed against atoms: auto (each level where it saves time at this size), all, in, mid, out, in4, out6-11, d0, d1-2, !mid; separated by commas."
    by_size: ClassVar[bool] = True
    release: ClassVar[int] = 6
    about: ClassVar[str] = (
        "The picture looks at a few hundred atoms that stand for all its points: faster large pictures. With a file "
        "learned from pictures, new pictures share their look."
    )

    enabled: bool = param(False, "Dictionary", "Switch the dictionary on.")
    file: str = param("", "Dictionary file", "A learned dictionary. None: atoms are found in the picture itself; the style bank needs a file.", file="dictionary")
    mode: str = param("live", "Attention mode", "Live: atoms stand for the whole picture. Global: for all but a point's own tile. Static: points are rebuilt from atoms. Full: for the style bank alone.", choices=("live", "global", "static", "full"))
    atoms: int = param(256, "Atoms", "How many stand for the picture, on the finest level. More is closer to full attention and slower.", 4, 4096)
    strength: float = param(0.0, "Style strength", "How much the style bank of the file counts beside the picture: 1 is as much as the picture itself, 0 is none.", 0.0, 8.0, 0.05)
    tile: int = param(16, "Own tile", "Global: side of the tile that a point sees in full.", 8, 256, unit="8 px", reads=PIXELS, advanced=True)
    depth_scaling: float = param(1.0, "Fewer atoms below", "1: half the atoms on each deeper level of the U-Net, where the picture has fewer points; 0: the same number everywhere.", 0.0, 2.0, 0.1, advanced=True)
    keep: int = param(1, "Keep clusters for", "Which point belongs to which atom is decided anew every so many steps; what an atom is like follows in every step.", 1, 10, unit="steps", reads=(1.0, "steps"), advanced=True)
    iterations: int = param(1, "Cluster iterations", "How often atoms and points are matched each time, starting from the step before.", 1, 8, advanced=True)
    full_first: float = param(0.15, "Full attention first", "The first steps, which decide the layout, see every point.", 0.0, 1.0, 0.01, unit="share of the steps", reads=OF_STEPS, advanced=True)
    blend: float = param(1.0, "Atom blend", "Share of the result against full attention, which has to be computed as well below 1. 0: full attention.", 0.0, 1.0, 0.05, advanced=True)
    codes: str = param("pseudo-inverse", "Static codes", "Static: how a point is put together from atoms. Pseudo-inverse and ridge use all of them, sparse the few that fit best.", choices=("pseudo-inverse", "ridge", "sparse"), advanced=True)
    ridge: float = param(0.1, "Ridge", "Static with ridge: how strongly large weights are held back.", 0.0001, 10.0, 0.0001, advanced=True)
    sparse: int = param(4, "Atoms in a code", "Static with sparse codes: how many atoms a point is put together from.", 1, 16, advanced=True)
    style_match: float = param(0.0, "Style follows the picture", "1: values of the style bank are brought to the picture's own mean and spread; 0: as they were learned, which brings the colours too.", 0.0, 1.0, 0.05, advanced=True)
    style_rows: str = param("positive", "Style rows", "Whether positive, negative or both see the style bank. With positive alone the CFG scale makes the look stronger.", choices=("both", "positive", "negative"), advanced=True)
    style_blocks: str = param("auto", "Style blocks", "Where the style bank acts: auto (all that the file has), out, in4, out6-11, d0, d1-2, !mid; separated by commas.", blocks=True, advanced=True)
    reach: str = param("self-attention", "Static mode covers", "Attention mode static alone: what is put together from atoms instead of computed. Self-attention; cross-attention: that as well, kept for each prompt; skip connection: also what both are added to.", choices=("self-attention", "cross-attention", "skip connection"), advanced=True, since=8)

    @property
    def lacks_file(self) -> bool:
        return not self.file and (self.mode == "static" or (self.mode == "full" and self.strength > 0))

    @property
    def only_in_blocks(self) -> bool:
        """The style bank has blocks of its own."""
        return not (self.file and self.strength)
