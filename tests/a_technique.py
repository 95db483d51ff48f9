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
from lib_attn.learned.header import Refused
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
    file: str = param("", "Softer: File", "A learned amount in place of the one above.", file="softer")


def make_runtime():
    """The class that would stand in ``runtime.py``; apart, because reading settings takes no torch."""
    from lib_attn.techniques.base import Runtime

    class SofterRuntime(Runtime):
        def __init__(self, settings, context):
            super().__init__(settings, context)
            self._amount = settings.amount
            try:
                if settings.file:
                    self._amount = float(context.learned("softer", settings.file).tensors["amount"])
            except Refused as refused:
                self._say(str(refused))
                self._amount = 0.0

        def wants_self(self, layer):
            return True

        def edits(self, call):
            return self._amount > 0

        def edit(self, call, q, k, v):
            return q * (1 - self._amount), k, v, None

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

    found = {}
    with TemporaryDirectory() as folder:
        install_fake_host(Path(folder))
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
        found |= places_of_a_file()
    with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
        cli.main(["generate", "--help"])
    found["command line"] = "--softer.amount" in shown.getvalue()
    found["docs"] = "`softer.amount`" in parameters.page() and "name of a learned file" in parameters.page()
    found["pictures"] = not torch.equal(predict(Softer(enabled=True)), predict())
    found["neutral"] = torch.equal(predict(Softer(enabled=True, amount=0.0)), predict())
    return found


def places_of_a_file() -> dict[str, bool]:
    """Where its learned file is found, that of the fake host's folder."""
    import gradio as gr

    from lib_attn.learned.files import save
    from lib_attn.webui import host, job, live, panel, xyz
    from tests.conftest import fake_grid_data
    from tests.webui.jobs import Job

    files, found = host.files, {}
    with gr.Blocks() as page:
        control = panel.build(elem_id=lambda name: f"lab_{name}", files=files).controls["softer.file"]
    path = Path(host.own_folder()) / "half.safetensors"
    save(path, "softer", {"amount": torch.tensor(0.5)}, {"family": "other", "layers": {}})
    searches = [f.fn for f in page.fns if getattr(f.fn, "__qualname__", "").startswith("_file.")]
    found["list of learned files"] = control.choices == [""] and ["", "half"] in [s()["choices"] for s in searches]

    axis = next(
        a for a in xyz.make_axes(fake_grid_data().module, files=files) if a.label == "[Attn] Softer: Softer: File"
    )
    axis.confirm(None, ["", "half"])
    try:
        axis.confirm(None, ["half", "gone"])
    except Refused as refused:
        found["X/Y/Z over learned files"] = axis.choices() == ["half"] and "gone" in str(refused)

    asked, p = {"softer.enabled": True, "softer.file": "half"}, Job()
    job.begin(p, [asked])
    named = f"half#{files.load('softer', 'half').hash}"
    found["a picture's text has name and hash"] = str(p.extra_generation_params["Attn softer"]) == f"file: {named}"

    answers = live.Live(None, lambda: live.Surroundings(files=files))
    told = []
    for name in ("half", named, "gone#0123456789", "half#0123456789", "../half"):
        answer = json.loads(answers.answer(json.dumps({"values": asked | {"softer.file": name}})))
        told.append([warning["text"][:40] for warning in answer["techniques"]["softer"]["warnings"]])
    missing, other = "The learned file gone is not used: there", "The learned file half is not the one tha"
    wrong = "Softer: File is the name of a learned file"[:40]
    found["the panel says what is wrong with a file"] = told == [[], [], [missing], [other], [wrong]]

    by_file = predict(Softer(enabled=True, amount=0.0, file=named), files=files)
    found["a learned file acts"] = torch.equal(by_file, predict(Softer(enabled=True, amount=0.5)))
    said: list[str] = []
    without = predict(Softer(enabled=True, file="gone"), files=files, say=said.append)
    found["without its file nothing is done, and that is said"] = torch.equal(without, predict()) and len(said) == 1
    return found


def predict(*techniques, **options):
    """What a tiny U-Net predicts under `techniques`."""
    from lib_attn.attach import attach
    from tests.unets import tiny_unet, unet_input

    unet, (x, context) = tiny_unet(), unet_input(1, 16, 16)
    with torch.no_grad(), attach(unet, techniques, **options):
        return unet(x, torch.tensor([500.0]), context=context)


if __name__ == "__main__":
    register()
    print(json.dumps(places()))
