"""What the user can set for thin QK."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lib_attn.schema import Technique, param


@dataclass(frozen=True)
class ThinQk(Technique):
    """Self-attention that compares fewer channels of queries and keys."""

    name: ClassVar[str] = "thin_qk"
    label: ClassVar[str] = "Thin QK"
    blocks_help: ClassVar[str] = "Where it acts: auto (each layer where it saves time), all, in, mid, out, in4, out6-11, d0, d1-2, !mid; separated by commas."
    hires_in_sight: ClassVar[bool] = True
    by_size: ClassVar[bool] = True
    release: ClassVar[int] = 5
    about: ClassVar[str] = (
        "Queries and keys are compared by fewer channels. By arithmetic at most 9 % faster at 1024 px with "
        "SD 1.x and 3 % with SDXL; together with Near-sighted less. Where it saves no time it says so."
    )

    enabled: bool = param(False, "Thin QK", "Switch thin queries and keys on.")
    file: str = param("", "File", "Learned from the model's own pictures. None: from the model's weights alone, which loses more at the same number of channels.", file="thin_qk")
    choose: str = param("kept energy", "Choose channels by", "Kept energy: as many as each layer needs for it. Fixed: the same number everywhere. Budget: a share of the work, spread over the layers where it loses least.", choices=("kept energy", "fixed", "budget"))
    energy: float = param(0.95, "Kept energy", "Share of the energy of the comparison that every head keeps. 1: all channels.", 0.5, 1.0, 0.005)
    channels: int = param(32, "Channels", "Fixed: channels of a head. Layers that have no more stay as they are.", 4, 256, 4, advanced=True)
    budget: float = param(0.8, "Budget", "Share of the work on similarities that is left. 1: all of it.", 0.1, 1.0, 0.05, advanced=True)
    values: bool = param(True, "Values too", "Thins what is passed on as much as what is compared. On most devices only both together are faster; off loses less and often saves nothing.", advanced=True)
    maps: str = param("pair", "Maps", "Pair: one for queries and one for keys, which is best. Shared: the same for both.", choices=("pair", "shared"), advanced=True)
    round_to: int = param(0, "Round to", "The number of channels is rounded up to a multiple of this. 0: what kernels are made for, 32 on a GPU and 8 elsewhere.", 0, 64, advanced=True)
    when: str = param("faster", "Act", "Faster: only where a short timing on this machine says that it saves time. Always: in any case, so that a picture does not depend on the machine.", choices=("faster", "always"), advanced=True)
