"""What the user can set for key mix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lib_attn.schema import PIXELS, Technique, param


@dataclass(frozen=True)
class KeyMix(Technique):
    """Keys, and if wanted values, queries and features of blocks, mixed with those of another source."""

    name: ClassVar[str] = "key_mix"
    label: ClassVar[str] = "Key mix"
    blocks_help: ClassVar[str] = "Where self-attention is mixed: auto (out), all, in, mid, out, in4, out6-11, d0, d1-2, !mid; separated by commas."
    needs_negative: ClassVar[bool] = True
    shown_by: ClassVar[str] = "Smoothed (SEG-like)"
    release: ClassVar[int] = 2
    about: ClassVar[str] = (
        "Self-attention looks up its keys elsewhere too: keys say where a picture looks, values what it takes from there. "
        "For pictures that belong together, or for one that follows itself more or less closely."
    )

    enabled: bool = param(False, "Key mix", "Mix the keys of self-attention with those of another source.")
    source: str = param("first image", "Source", "What the picture looks up too. Batch mean and first image need a batch; the recorded run is the last one made with Record this run.", choices=("first image", "batch mean", "negative", "previous step", "blurred", "shifted", "recorded run"))
    operator: str = param("blend", "Direction", "Blend goes towards the source, contrast away from it, concatenate lets each place choose between both.", choices=("blend", "contrast", "concatenate"))
    amount: float = param(0.5, "Amount", "How much of the source is mixed in. 0: none.", 0.0, 2.0, 0.05)
    values: str = param("own", "Values", "Own: the picture keeps its colours. Follow: values are mixed as well. AdaIN: own values with the source's mean and spread.", choices=("own", "follow", "AdaIN"), advanced=True)
    value_amount: float = param(1.0, "Value amount", "How far values follow, where they do.", 0.0, 2.0, 0.05, advanced=True)
    query_amount: float = param(0.0, "Query amount", "Blend and contrast: how far queries follow. Queries and keys together bring the source's layout, own values keep the picture's look (as Plug-and-Play does).", 0.0, 2.0, 0.05, advanced=True)
    features: str = param("own", "Features", "What a block hands on. Follow: it becomes the source's, which brings its layout (as in Plug-and-Play). AdaIN: it takes the source's mean and spread, which brings its look.", choices=("own", "follow", "AdaIN"), advanced=True)
    feature_amount: float = param(1.0, "Feature amount", "How far features follow, where they do.", 0.0, 2.0, 0.05, advanced=True)
    feature_blocks: str = param("auto", "Feature blocks", "Behind which blocks: auto (the one that holds the layout: out4), all, in, mid, out, in4, out6-11, d0, d1-2, !mid; separated by commas. Later blocks bring colours too.", blocks=True, advanced=True)
    bias: float = param(0.0, "Source bias", "Concatenate: added to the logits of the source's keys; below 0 the source counts less.", -8.0, 8.0, 0.1, advanced=True)
    match_queries: bool = param(False, "Match queries and keys", "Gives queries and keys the source's mean and spread first (AdaIN, as StyleAligned does).", advanced=True)
    blur: float = param(8.0, "Blur", "Source blurred: spread of the blur.", 0.0, 256.0, 0.5, unit="8 px", reads=PIXELS, advanced=True)
    shift_x: int = param(8, "Shift to the right", "Source shifted: by how much; what leaves on one side comes in on the other.", -256, 256, unit="8 px", reads=PIXELS, advanced=True)
    shift_y: int = param(0, "Shift down", "Source shifted: the same downwards.", -256, 256, unit="8 px", reads=PIXELS, advanced=True)
    side: str = param("both", "Rows", "Whether positive, negative or both are mixed.", choices=("both", "positive", "negative"), advanced=True)
    record: bool = param(False, "Record this run", "Keeps the first image in memory as the recorded run, until the next recording or until the webui ends. With hires. fix the last pass is kept.")
    memory: int = param(1024, "Mix memory", "Most memory that a recorded run or the previous step may take; what is beyond it is not mixed.", 0, 65536, 64, unit="MiB", reads=(1.0, "MiB"), advanced=True)

    @property
    def note(self) -> str:
        """What a picture's text has to say beyond the settings: what else it takes to make the picture again."""
        needs = {"first image": "its batch", "batch mean": "its batch", "recorded run": "the recorded run"}
        return needs.get(self.source, "")

    @property
    def adds_keys(self) -> bool:
        """Whether keys of the source stand beside the picture's own."""
        return self.operator == "concatenate"

    @property
    def only_in_blocks(self) -> bool:
        """Features have blocks of their own."""
        return self.features == "own" or not self.feature_amount
