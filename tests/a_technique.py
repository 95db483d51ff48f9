"""A whole technique in one file, as a stranger would add it; run as a program, it says where it is found.

What the file does by hand, the folder ``techniques/softer/`` and a line in the registry would do.
"""

import contextlib
import io
import json
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import lib_attn.techniques as registry
from lib_attn.schema import Technique, param


@dataclass(frozen=True)
class Softer(Technique):
    """Self-attention with smaller logits."""

    name: ClassVar[str] = "softer"
    label: ClassVar[str] = "Softer"
    about: ClassVar[str] = "Each place looks around more evenly."
    blocks_help: ClassVar[str] = "Where attention is softened: auto (all), in, mid, out."
    release: ClassVar[int] = 9

    enabled: bool = param(False, "Softer", "Switch softer attention on.")
    amount: float = param(0.5, "Softer: Amount", "0: as it was.", 0.0, 1.0)


def make_runtime():
    """The class that would stand in ``runtime.py``; apart, because reading settings takes no torch."""
    from lib_attn.techniques.base import Runtime

    class SofterRuntime(Runtime):
        def wants_self(self, layer):
            return True

        def edits(self, call):
            return self._settings.amount > 0

        def edit(self, call, q, k, v):
            return q * (1 - self._settings.amount), k, v, None

    return SofterRuntime


def register():
    registry.TECHNIQUES = (*registry.TECHNIQUES, Softer)
    registry.ORDER = (*registry.ORDER, Softer.name)
    module = sys.modules[f"lib_attn.techniques.{Softer.name}.runtime"] = types.ModuleType("runtime")
    module.RUNTIME = make_runtime()


def places() -> dict[str, bool]:
    """Where the technique is found."""
    from lib_attn.lab.commands import cli
    from lib_attn.lab.reports import parameters
    from lib_attn.settings import Settings, positional_params
    from tests.conftest import fake_grid_data, install_fake_host
    from tests.unets import tiny_unet, unet_input

    found = {}
    with TemporaryDirectory() as folder:
        install_fake_host(folder)
        import gradio as gr

        from lib_attn.presets import Presets
        from lib_attn.webui import api, infotext, panel, xyz

        with gr.Blocks() as page:
            panel.build(elem_id=lambda name: f"lab_{name}", presets=Presets(Path(folder)))
        found["panel"] = "Each place looks around more evenly." in json.dumps(page.get_config_file(), default=str)
        settings, messages = api.read_args([{"softer": {"enabled": True, "amount": 0.25}}])
        found["API"] = not messages and settings["softer"].amount == 0.25
        found["last in the positional API"] = positional_params()[-1].technique == "softer"
        text: dict = {}
        infotext.write(text, settings)
        found["infotext"] = Settings.from_infotext(text)[0]["softer"] == settings["softer"]
        found["X/Y/Z"] = "[Attn] Softer" in {axis.label for axis in xyz.make_axes(fake_grid_data().module)}
    with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
        cli.main(["generate", "--help"])
    found["command line"] = "--softer.amount" in shown.getvalue()
    found["docs"] = "`softer.amount`" in parameters.page()
    unet, (x, context) = tiny_unet(), unet_input(1, 16, 16)

    def predict(*techniques):
        from lib_attn.attach import attach

        with torch.no_grad(), attach(unet, techniques):
            return unet(x, torch.tensor([500.0]), context=context)

    found["pictures"] = not torch.equal(predict(Softer(enabled=True)), predict())
    found["neutral"] = torch.equal(predict(Softer(enabled=True, amount=0.0)), predict())
    return found


if __name__ == "__main__":
    register()
    print(json.dumps(places()))
