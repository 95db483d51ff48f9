"""Infotext: write a job's settings under the picture, read them back into the panel.

The host asks one function per control. The functions are made once, at import, because "Send to img2img" finds the
partner of a control by comparing these objects between the two tabs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

from lib_attn.settings import (
    GROUPS,
    TECHNIQUES,
    General,
    Param,
    Settings,
    all_params,
    infotext_value,
    note_key,
    unit_key,
)  # fmt: skip

MESSAGES = "Attention Lab messages"
"""Infotext key of what the user was told; it is never read back."""
MAPS = "Attn map hashes"
"""Infotext key of the maps that pictures follow, by which one can tell whether another run followed the same."""

KEYS: tuple[str, ...] = (
    *(p.infotext for p in all_params()),
    *(note_key(group) for group in GROUPS),
    *(unit_key(group) for group in TECHNIQUES),
    MESSAGES,
    MAPS,
)


class UnitText(str):
    """A technique's text that drops out of a picture which the technique did not change.

    The host calls what it finds callable when it writes a picture's text, after the picture is drawn; everybody else,
    the API's answer among them, sees the text.
    """

    still: Callable[[Any], bool]

    def __call__(self, p: Any = None, **_: Any) -> str | None:
        return None if self.still(p) else str(self)


class MapsText(UnitText):
    """Hashes of all maps of a job so far. When the host writes the text of one picture, that picture's hash alone; a
    grid has all."""

    batch: list[str | None]
    job: list[str | None]

    def __call__(self, p: Any = None, index: int | None = None, all_seeds: Any = None, **asked: Any) -> str | None:
        if self.still(p):
            return None
        if index is None or asked.get("use_main_prompt"):
            return str(self)
        # The host counts within the list of seeds that it was given: the job's, or those of the batch at hand.
        places = self.job if all_seeds is not None and all_seeds is getattr(p, "all_seeds", None) else self.batch
        return places[index] if index < len(places) else None


def write_maps(
    parameters: MutableMapping[str, Any], hashes: list[str | None], still: Callable[[Any], bool] = lambda p: False
) -> None:
    """Add the maps of a batch to those of the job.

    Args:
        hashes: one for each picture of the batch, None for one that follows no map. still: whether the job's pictures
            are known to follow none.
    """
    job = [*getattr(parameters.get(MAPS), "job", []), *hashes]
    found = dict.fromkeys(filter(None, job))
    if found:
        parameters[MAPS] = text = MapsText(" ".join(found))
        text.still, text.batch, text.job = still, hashes, job


def write(
    parameters: MutableMapping[str, Any],
    settings: Settings,
    full: bool = False,
    still: Callable[[Any, str], bool] | None = None,
) -> None:
    """Put the pairs of `settings` into the job's `parameters`, and take out ours of another job.

    The cells of an X/Y/Z grid are shallow copies that share one such dictionary: what one cell wrote is there in the
    next.

    Args:
        full: every parameter has a key of its own.
        still: ``still(p, technique)``: whether the technique is known to have changed nothing in job `p`.
    """
    for key in KEYS:
        parameters.pop(key, None)
    pairs = settings.to_infotext(full)
    for group in TECHNIQUES:
        key = unit_key(group)
        if key in pairs and still is not None:
            pairs[key] = UnitText(pairs[key])
            pairs[key].still = lambda p, name=group.name: still(p, name)
    parameters.update(pairs)


def tell(parameters: MutableMapping[str, Any], text: str) -> None:
    """Add one sentence to what the picture's text says the user was told: clients of the API see no other place."""
    before = parameters.get(MESSAGES)
    if before is None or text not in before:
        parameters[MESSAGES] = text if before is None else f"{before} {text}"


def _reader(param: Param) -> Callable[[Mapping[str, Any]], Any]:
    def read(parameters: Mapping[str, Any]) -> Any:
        if param.technique == General.name:
            settings, _ = Settings.from_infotext(parameters)
            return getattr(settings.general, param.name)
        try:
            # Not by way of all the others: the host asks for each of them in turn.
            value = infotext_value(param, parameters)
            return param.default if value is None else param.read(value)
        except ValueError:
            return param.default

    read.__name__ = read.__qualname__ = f"read_{param.technique}_{param.name}"
    read.__doc__ = f"Value of '{param.infotext}', the default when a picture does not have it."
    return read


READERS: dict[str, Callable[[Mapping[str, Any]], Any]] = {p.key: _reader(p) for p in all_params()}
"""By parameter key: parsed infotext -> the control's value, of its own type (a real bool, never ``"False"``)."""
