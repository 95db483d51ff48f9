"""A map handed to ControlNet (Mikubill/sd-webui-controlnet) through its own interface, ``external_code``.

ControlNet reads its units before anything is sampled, so a free unit is reserved with an empty picture of the right
size, and gets the map once that is drawn: its ``hint_cond`` may be set by others (its scripts/hook.py says so).
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from modules import extensions

from lib_attn.learned.header import Refused
from lib_attn.techniques.facts import Sentence, sentence
from lib_attn.webui import host

#: A window of steps that never comes: the unit rests while the map itself is drawn.
NEVER = 2.0
HIRES = {"same": "BOTH", "off": "LOW_RES_ONLY", "only": "HIGH_RES_ONLY"}
#: Where the interface is once the extension is loaded, wherever its folder stands; the second is that of releases
#: before 1.1.450.
LOADED = ("internal_controlnet.external_code", "scripts.external_code")


def find_interface() -> Any | None:
    """ControlNet's ``external_code``; None when it is not installed, or switched off."""
    for extension in extensions.active():
        if "sd-webui-controlnet" in extension.name:
            found = (sys.modules.get(name) for name in LOADED)
            loaded = next((module for module in found if hasattr(module, "find_cn_script")), None)
            return loaded or importlib.import_module(f"extensions.{extension.name}.scripts.external_code")
    return None


@dataclass
class Reserved:
    """The unit that a job has reserved.

    number: among the enabled units. before: all units of the job as they were. start: share of the steps from which it
    guides. normals: its model reads them.
    """

    interface: Any
    number: int
    before: list[Any]
    start: float
    normals: bool = False

    def params(self, p: Any) -> list[Any]:
        """What ControlNet has made of all enabled units; empty when it does nothing in this job."""
        network = getattr(self.interface.find_cn_script(p.scripts), "latest_network", None)
        return list(getattr(network, "control_params", None) or ())

    def draw(self, p: Any, draw: Callable[[], Sequence[Any]]) -> Sequence[Any]:
        """Draw maps by `draw` while ControlNet rests, and hand over the first; without one our unit rests on."""
        # The unit is ours: pasting the picture's text reserves it again, and as one of the user's it has no picture.
        p.extra_generation_params.pop(f"ControlNet {self.number}", None)
        params, maps = self.params(p), ()
        before = [one.start_guidance_percent for one in params]
        for one in params:
            one.start_guidance_percent = NEVER
        try:
            maps = draw()
        finally:
            for number, one in enumerate(params):
                if number != self.number:
                    one.start_guidance_percent = before[number]
                elif maps:
                    one.start_guidance_percent = self.start
        if maps and self.number < len(params):
            self._hand_over(params[self.number], maps[0])
        return maps

    def release(self, p: Any) -> None:
        """Give the unit back: whoever runs `p` again reserves another."""
        self.interface.update_cn_script_in_processing(p, self.before)

    def _hand_over(self, unit: Any, drawn: Any) -> None:
        for name in ("hint_cond", "hr_hint_cond"):
            there = getattr(unit, name)
            if isinstance(there, torch.Tensor) and there.ndim == 4:
                height, width = there.shape[-2:]
                hint = torch.from_numpy(drawn.at(width, height, self.normals)).permute(2, 0, 1)[None].float() / 255
                setattr(unit, name, hint.to(there))
        reset = getattr(getattr(unit, "control_model", None), "reset", None)
        if reset is not None:
            reset()  # adapters keep what they have made of the hint of an earlier batch


def kind_of(group: Any) -> str:
    """Which kind of map the file that `group` names draws, ``depth`` or ``normal``."""
    try:
        return host.files.load("depth", group.file).about.get("map", "depth")
    except Refused:
        return "depth"


def model_for(interface: Any, kind: str, look_again: bool = True) -> str | None:
    """The name of a model of ControlNet for maps of `kind` that fits the checkpoint; None when there is none.

    Of those for normals the ones trained on NormalBae's come first, whose frame the maps have.

    Args:
        look_again: in the folders, where ControlNet knows of none.
    """
    for update in (False, True) if look_again else (False,):
        names = interface.get_models(update=update)
        found = [name for name in names if kind in name.lower() and _takes_hints(name) and _fits(interface, name)]
        if found:
            return min(found, key=lambda name: kind == "normal" and "bae" not in name.lower())
    return None


def _model_of(interface: Any, group: Any, look_again: bool = True) -> tuple[str | None, str]:
    """The model for the maps of `group`, see `model_for`, and the kind of map that it reads."""
    kind = "normal" if group.normals else kind_of(group)
    model = model_for(interface, kind, look_again)
    if model is None and kind == "depth":
        # Normals can be worked out from depth, but not the other way round.
        model = model_for(interface, "normal", look_again)
        kind = kind if model is None else "normal"
    return model, kind


def lacking(group: Any) -> Sentence | None:
    """Why a picture will follow no map of `group`, as far as it is known before there is a job; None when it may."""
    try:
        interface = find_interface()
        if interface is None:
            return sentence(
                "The picture follows no map, and none is drawn: ControlNet is not installed or switched off."
            )
        model, kind = _model_of(interface, group, look_again=False)
    except Exception:
        host.log.exception("ControlNet could not be asked")
        return sentence("The picture follows no map, and none is drawn: ControlNet could not be asked, see the log.")
    if model is None:
        return sentence("The picture follows no map, and none is drawn: ControlNet has no {kind} model.", kind=kind)
    return None


def _takes_hints(name: str) -> bool:
    """Whether a model reads its unit's hint while it draws; a ControlNet-LLLite takes it when the unit is read."""
    return "lllite" not in name.lower()


def _fits(interface: Any, name: str) -> bool:
    """Whether ControlNet takes a model of this name for one of the checkpoint's kind."""
    state = getattr(interface, "global_state", None)
    if state is None:
        return True
    version = state.get_sd_version()
    return version.is_compatible_with(type(version).detect_from_model_name(name))


def reserve(p: Any, group: Any, say: Callable[[str], None]) -> Reserved | None:
    """Take a free unit for the map that job `p` is going to draw; None, and a sentence, when that cannot be."""
    interface = find_interface()
    if interface is None or interface.find_cn_script(p.scripts) is None:
        say("The picture is drawn without its map: ControlNet is not installed, or switched off.")
        return None
    before = list(interface.get_all_units_in_processing(p))
    free = next((i for i, unit in enumerate(before) if not unit.enabled), None)
    if free is None:
        say("The picture is drawn without its map: ControlNet has no free unit.")
        return None
    model, kind = _model_of(interface, group)
    if model is None:
        say(f"The picture is drawn without its map: ControlNet has no {kind} model.")
        return None
    if p.batch_size > 1:
        say("ControlNet takes one map for a whole batch: that of its first picture.")
    option = type(before[free].hr_option)[HIRES[group.hires]]
    # Of grey, not black: a black picture is one that nobody has given.
    empty = np.full((p.height, p.width, 3), 127, np.uint8)
    units = list(before)
    units[free] = interface.ControlNetUnit(
        enabled=True, module="none", model=model, image=empty, weight=min(group.strength, 2.0),
        guidance_start=group.start, guidance_end=max(group.start, min(group.end, group.until)), pixel_perfect=False,
        hr_option=option, save_detected_map=False,
    )  # fmt: skip
    # As many as before: with another number ControlNet moves the arguments of every script behind it.
    interface.update_cn_script_in_processing(p, units)
    return Reserved(
        interface, sum(unit.enabled for unit in before[:free]), before, group.start, normals=kind == "normal"
    )
