"""A page on 127.0.0.1 with the webui's panel, for playing without a webui. It needs the package gradio."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr
import uvicorn
from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from lib_attn.lab.drawing.checkpoint import LabModel, ModelSpec
from lib_attn.lab.drawing.generate import picture_request
from lib_attn.lab.drawing.pictures import infotext, parse_infotext, read_parameters
from lib_attn.lab.drawing.sampling import SAMPLERS, decode, evaluations, sample
from lib_attn.lab.drawing.variants import FULL, ours
from lib_attn.lab.shared.distances import relative_l2
from lib_attn.lab.shared.errors import LabError
from lib_attn.presets import Presets
from lib_attn.settings import TECHNIQUES, Settings, positional_params
from lib_attn.store import Store
from lib_attn.techniques import forget_recorded, keeps, latest_of
from lib_attn.techniques import stamped as stamped_with
from lib_attn.unet.profile import profile_of
from lib_attn.webui import panel as panels
from lib_attn.webui.api import read_args
from lib_attn.webui.live import Surroundings

ROOT = Path(__file__).resolve().parents[3]
STYLE, SCRIPT, DOCS = ROOT / "style.css", ROOT / "javascript" / "attention_lab.js", ROOT / "docs"

#: Runs the panel's script, which the webui would load by itself. A script element, because its functions are global.
LOAD = """() => {
    const element = document.createElement("script");
    element.textContent = %s;
    document.head.appendChild(element);
}"""

#: Infotext key -> control of the page, with the type of its value.
FIELDS = {"Steps": ("steps", int), "Sampler": ("sampler", str), "CFG scale": ("cfg", float), "Seed": ("seed", int)}


@dataclass(frozen=True)
class PageSpec:
    """A page at `port` for one model. presets_folder: where the user's own presets are kept."""

    model: ModelSpec
    port: int
    presets_folder: Path


def serve(spec: PageSpec) -> None:
    """Open the page until interrupted.

    Raises:
        LabError: when the port cannot be had.
    """
    with socket.socket() as probe:
        try:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", spec.port))
        except OSError as error:
            raise LabError(f"The page cannot be opened at port {spec.port}: {error.strerror}.") from None
    app = build_app(build_page(spec.model.load(), spec.presets_folder))
    print(f"Open http://127.0.0.1:{spec.port} in a browser; Ctrl+C ends it.", flush=True)
    uvicorn.run(app, host="127.0.0.1", port=spec.port, log_level="warning")


def build_app(page):
    """The web application around `page`. It forbids the browser to ask anybody else for anything."""
    app = FastAPI()

    @app.middleware("http")
    async def stay_here(request, call_next):
        answer = await call_next(request)
        # gradio's page is made of inline scripts and styles, and would load one script from elsewhere.
        answer.headers["Content-Security-Policy"] = (
            "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self' ws: data: blob:"
        )
        return answer

    app.mount("/docs", StaticFiles(directory=DOCS, check_dir=False))
    return gr.mount_gradio_app(app, page.queue(concurrency_count=1), path="/")


def build_page(model: LabModel, presets_folder: Path | None = None):
    """The gradio page for `model`."""
    # The default theme asks a font server; the system's own fonts do.
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    actions = Actions(model)
    with gr.Blocks(title="Attention Lab", theme=theme, css=_text_of(STYLE), analytics_enabled=False) as page:
        gr.Markdown(f"## Attention Lab · {model.name}")
        with gr.Row():
            with gr.Column():
                fields = _picture_controls(model.side)
                panel = panels.build(
                    elem_id=_id,
                    switch=_master,
                    presets=Presets(presets_folder),
                    surroundings=actions.surroundings,
                    docs=lambda name: f"/docs/{name}",
                    files=model.files,
                )
                dropped = gr.File(label="Read the settings of a PNG", file_types=[".png"], height=110)
            with gr.Column():
                with gr.Row():
                    both = gr.Checkbox(True, label="Draw without it too, to compare", elem_id=_id("both"))
                    button = gr.Button("Generate", variant="primary", elem_id=_id("generate"))
                gallery = gr.Gallery(
                    label="Pictures",
                    columns=2,
                    object_fit="contain",
                    height="auto",
                    preview=False,
                    elem_id=_id("gallery"),
                )
                said = gr.Markdown("", elem_id=_id("said"))
                text = gr.Textbox(label="Infotext", lines=4, show_copy_button=True, elem_id=_id("infotext"))
        names, controls = list(fields), panel.inputs()
        button.click(
            lambda both, *values: actions.draw(dict(zip(names, values, strict=False)), values[len(names) :], both),
            [both, *fields.values(), *controls], [gallery, said, text],
        )  # fmt: skip
        script = _text_of(SCRIPT)
        if script is not None:
            page.load(None, None, None, _js=LOAD % json.dumps(script))
        dropped.upload(actions.read_png, [dropped], [*fields.values(), *controls, said], show_progress="hidden")
    return page


def _id(name: str) -> str:
    """The page's id of a control. The panel's script looks for those of the picture, named as in the webui."""
    return f"lab_{name}"


def _text_of(file: Path) -> str | None:
    return file.read_text(encoding="utf-8") if file.is_file() else None


@contextlib.contextmanager
def _master(value: bool, label: str, elem_id: str):
    """The panel's accordion, open and switched on: here it is what the page is for. Its techniques are off."""
    with gr.Accordion(label, open=True, elem_id=elem_id):
        yield gr.Checkbox(True, label=label, elem_id=f"{elem_id}-checkbox")


def _picture_controls(side: int) -> dict[str, Any]:
    """Controls of a picture, at first of `side` pixels."""
    prompt = gr.Textbox("a large red sphere left of a small blue cube", label="Prompt", lines=2, elem_id=_id("prompt"))
    fields = {"prompt": prompt, "negative": gr.Textbox("", label="Negative prompt", lines=2, elem_id=_id("neg_prompt"))}
    with gr.Row():
        fields["sampler"] = gr.Dropdown(list(SAMPLERS), value="Euler a", label="Sampler", elem_id=_id("sampling"))
        fields["steps"] = gr.Slider(1, 100, value=20, step=1, label="Steps", elem_id=_id("steps"))
    with gr.Row():
        fields["width"] = gr.Slider(64, 2048, value=side, step=8, label="Width", elem_id=_id("width"))
        fields["height"] = gr.Slider(64, 2048, value=side, step=8, label="Height", elem_id=_id("height"))
    with gr.Row():
        fields["cfg"] = gr.Slider(0, 30, value=5, step=0.5, label="CFG scale", elem_id=_id("cfg_scale"))
        fields["seed"] = gr.Number(1, label="Seed (-1: draw one)", precision=0, elem_id=_id("seed"))
        fields["batch"] = gr.Slider(1, 8, value=1, step=1, label="Batch size", elem_id=_id("batch_size"))
    return fields


class Actions:
    """What the page's buttons do. One picture is drawn at a time: the U-Net carries one technique only."""

    def __init__(self, model: LabModel):
        self._model, self._busy = model, threading.Lock()
        self._warm: set[tuple[int, int]] = set()
        self._profile, self._store = profile_of(model.unet), Store()

    def surroundings(self) -> Surroundings:
        """What the panel's sentences depend on beside the panel."""
        kept = [item for item in (self._store.get(t.name) for t in TECHNIQUES) if item is not None]
        recorded = {**kept[0].about, "mib": round(kept[0].bytes / 2**20)} if kept else None
        return Surroundings(
            self._profile, recorded, lambda: forget_recorded(self._store), self._model.files,
            latest=lambda key: latest_of(key.partition(".")[0], self._store),
            keeps=lambda name, wanted: keeps(name, wanted, self._store), fitting=self._model.fitting,
        )  # fmt: skip

    def draw(self, fields: dict[str, Any], panel_values, both: bool):
        """Pictures with captions, a sentence, and the infotext of the first picture."""
        settings, said = read_args(list(panel_values))
        settings, more = settings.completed(self._model.fitting)
        said += more
        try:
            whole = {name: int(fields[name]) for name in ("width", "height", "steps", "seed")}
            asked = picture_request(**fields | whole | {"batch": int(fields["batch"])})
        except (LabError, TypeError, ValueError) as error:
            return [], str(error), ""
        variant = ours("on", "With", settings)
        on = bool(list(settings.active()))
        drawn, first = [], None
        with self._busy:
            if (asked.height, asked.width) not in self._warm:
                # What is set up once at a new size would be charged to the first picture.
                sample(self._model, replace(asked, steps=1))
                self._warm.add((asked.height, asked.width))
            for one in [FULL, variant] if both and on else [variant if on else FULL]:
                start = time.perf_counter()
                bar = _Bar(gr.Progress(), evaluations(self._model, asked), one.label)
                latents = sample(self._model, asked, one, say=said.append, progress=bar, store=self._store)
                seconds = time.perf_counter() - start
                caption = f"{'without' if one is FULL else 'with'}, {seconds:.1f} s"
                if first is not None:
                    caption += f", latent L2 {relative_l2(latents, first):.3f}"
                first = latents
                seeded = zip(decode(self._model, latents), asked.seeds, strict=True)
                drawn.append([(picture, f"Seed {seed}, {caption}") for picture, seed in seeded])
        for item in filter(None, (self._store.get(t.name) for t in TECHNIQUES)):
            # Whatever has no words yet was kept just now.
            item.about = item.about or {name: fields[name] for name in ("prompt", "width", "height")}
        stamped = stamped_with(settings.with_files(self._model.files.stamped), self._store)
        # Seed by seed, so that the two of a seed stand beside each other.
        pictures = [picture for pair in zip(*drawn, strict=True) for picture in pair]
        return pictures, " ".join(dict.fromkeys(said)), infotext(asked, 0, stamped, self._model.name)

    def read_png(self, file: Any) -> list[Any]:
        """Values for all controls from a picture's infotext; what it does not say stays, our techniques go off."""
        names = ("prompt", "negative", "sampler", "steps", "width", "height", "cfg", "seed", "batch")
        kept = {name: gr.update() for name in names}
        try:
            pairs = parse_infotext(read_parameters(Path(file.name)))
        except (LabError, AttributeError) as error:
            return [*kept.values(), *(gr.update() for _ in positional_params()), str(error)]
        settings, said = Settings.from_infotext(pairs)
        found = {"prompt": pairs.get("Prompt", ""), "negative": pairs.get("Negative prompt", "")}
        width, cross, height = pairs.get("Size", "").partition("x")
        try:
            if cross:
                found |= {"width": int(width), "height": int(height)}
            found |= {name: kind(pairs[key]) for key, (name, kind) in FIELDS.items() if key in pairs}
        except ValueError:
            said.append("Some of the picture's values are not understood.")
        if found.get("sampler") not in SAMPLERS and "sampler" in found:
            said.append(f"There is no sampler {found.pop('sampler')[:40]} here.")
        return [*(kept | found).values(), *panels.values(settings), " ".join(said)]


class _Bar:
    """Moves gradio's progress bar on by one each time it is called."""

    def __init__(self, progress: Any, total: int, text: str):
        self._progress, self._total, self._text, self._done = progress, total, text, 0

    def __call__(self) -> None:
        self._done += 1
        self._progress((self._done, self._total), desc=self._text)
