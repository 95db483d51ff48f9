"""What the preset controls do; each returns values for gradio and sentences for the user."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import gradio as gr

from lib_attn.presets import ALL_OFF, Presets
from lib_attn.settings import TECHNIQUES, Settings, positional_params
from lib_attn.webui.api import read_args

CHOOSE = "Choosing one applies it to the techniques it names; others stay as they are."
"""What stands under the list of presets where none is chosen."""


class PresetActions:
    """See the methods.

    Args:
        presets: shipped and own ones.
        start_with: name of the preset that a freshly loaded page begins with, empty for none.
    """

    def __init__(self, presets: Presets, start_with: Callable[[], str] = str):
        self._presets, self._start_with = presets, start_with

    def select(self, event: gr.SelectData, *args: Any) -> list[Any]:
        """An entry of the list was chosen, see `apply`."""
        return self.apply(event.value, *args)

    def apply(self, name: Any, *args: Any) -> list[Any]:
        """A preset was chosen: the panel's new values, what it is for, what was not understood and what else stays
        on."""
        settings, _ = read_args(args)
        try:
            settings, messages = self._presets.apply(name, settings)
        except ValueError as error:
            return [*(gr.update() for _ in positional_params()), gr.update(), sentences([error])]
        named, _ = self._presets.apply(name, Settings())
        staying = (t.label for t in TECHNIQUES if settings[t.name].enabled and not named[t.name].enabled)
        told = [*messages, *(f"{technique} stays on." for technique in staying)]
        return [*values(settings), sentences(self._presets.about(name)), sentences(told)]

    def all_off(self, *args: Any) -> list[Any]:
        """Switch all techniques off; their values and the master switch stay, and no preset is chosen any more."""
        settings, _ = self._presets.apply(ALL_OFF, read_args(args)[0])
        return [*values(settings), gr.update(value=None), sentences([CHOOSE]), ""]

    def save(self, name: Any, pending: Any, *args: Any) -> list[Any]:
        """Save the techniques that are on. A name that exists has to be confirmed by pressing again."""
        settings, _ = read_args(args)
        stay = [gr.update(), gr.update()]
        if not any(settings[t.name].enabled for t in TECHNIQUES):
            return [*stay, sentences(["No technique is on: a preset keeps those that are."]), ""]
        try:
            if self._presets.has_own(name) and pending != name:
                words = ("There is a preset of this name already. Press Save preset again to replace it:", str(name))
                return [*stay, _named(*words), name]
            saved = self._presets.save(name, settings)
        except ValueError as error:
            return [*stay, sentences([error]), ""]
        chosen = gr.update(choices=self._presets.names(), value=saved)
        return [chosen, sentences(self._presets.about(saved)), _named("Saved:", saved), ""]

    def delete(self, name: Any) -> list[Any]:
        """Delete the preset that is chosen."""
        if not name:
            return [gr.update(), gr.update(), sentences(["Choose the preset to delete in the list above."])]
        try:
            deleted = self._presets.delete(name)
        except ValueError as error:
            return [gr.update(), gr.update(), sentences([error])]
        return [gr.update(choices=self._presets.names(), value=None), "", _named("Deleted:", deleted)]

    def refresh(self, name: Any) -> Any:
        """The list as it is now; another tab or page may have changed it."""
        names = self._presets.names()
        return gr.update(choices=names, value=name if name in names else None)

    def start(self, name: Any, *args: Any) -> list[Any]:
        """A page was loaded: the list anew, and the values of the preset that the settings page names.

        The master switch stays off: nobody gets other pictures by opening a page.
        """
        kept, names = [gr.update() for _ in positional_params()], self._presets.names()
        wanted = self._start_with()
        try:
            settings, _ = self._presets.apply(wanted, Settings()) if wanted else (None, [])
        except ValueError:
            settings = None
        if settings is None:
            return [self.refresh(name), gr.update(), *kept]
        chosen = gr.update(choices=names, value=wanted if wanted in names else None)
        fresh = values(settings)
        master = next(i for i, p in enumerate(positional_params()) if p.key == "general.enabled")
        fresh[master] = gr.update()
        return [chosen, sentences(self._presets.about(wanted)), *fresh]


def preset_readers(presets: Presets) -> dict[str, Callable[[Mapping[str, Any]], Any]]:
    """By part of the panel (`lib_attn.webui.panel.Panel.preset`): parsed infotext -> what shows the preset that made a
    picture; no name where none does all that its settings do."""

    def name_of(parameters: Mapping[str, Any]) -> Any:
        return presets.matching(Settings.from_infotext(parameters)[0])

    def name(parameters: Mapping[str, Any]) -> Any:
        return gr.update(choices=presets.names(), value=name_of(parameters))

    def about(parameters: Mapping[str, Any]) -> str:
        return sentences(presets.about(name_of(parameters)) or [CHOOSE])

    def told(parameters: Mapping[str, Any]) -> str:
        return ""

    return {"name": name, "about": about, "told": told}


def values(settings: Settings) -> list[Any]:
    """The panel's values for `settings`, in the order of `Panel.inputs`."""
    flat = settings.flat()
    return [flat[p.key] for p in positional_params()]


def sentences(found: Iterable[Any]) -> str:
    """Sentences as HTML, each in an element of its own so that the host translates it; nothing in them is markup."""
    parts = [str(text) for text in found]
    whole = [text if text.endswith((".", "。")) else f"{text}." for text in parts]
    return "".join(f'<span class="attention-lab-sentence">{html.escape(text)}</span> ' for text in whole)


def _named(text: str, name: str) -> str:
    spans = (f'<span class="attention-lab-sentence">{html.escape(part)}</span> ' for part in (text, name))
    return "".join(spans)
