"""A stand-in for the webui, so that its side of the extension can be tested without it.

It states the host's rules in our own words; `tests/host` checks the same behaviour on the real host when
WEBUI_DIR names one, so that the two cannot drift apart.
"""

import importlib.util
import json
import os
import sys
import threading
import types
from pathlib import Path
from types import SimpleNamespace

import hypothesis
import pytest
import torch

from tests.unets import snapshot, tiny_unet

# How long an example takes says more about what else the machine does than about the code.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")

# Tiny tensors: threads only wait for one another, for minutes where the machine has other work.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts" / "attention_lab.py"


@pytest.fixture(scope="session")
def shared_unet():
    return tiny_unet()


@pytest.fixture
def unet(shared_unet):
    """A tiny U-Net; every test leaves it and the global generator as they were."""
    before, generator = snapshot(shared_unet), torch.random.get_rng_state()
    yield shared_unet
    assert snapshot(shared_unet) == before
    assert torch.equal(torch.random.get_rng_state(), generator)


def quote(value):
    """How the host writes a value into the infotext."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(c in text for c in ",\n:") else text


def write_infotext(parameters):
    """The last line of a picture's text."""
    return ", ".join(f"{key}: {quote(value)}" for key, value in parameters.items() if value is not None)


def read_infotext(line):
    """Pairs of the last line, by the host's rule: a key of two or more letters, digits, spaces, - or /; then a quoted
    value or everything up to the comma; ``12x34`` is split in two. What does not fit is skipped."""
    pairs, at = {}, 0
    while at < len(line):
        colon = line.find(":", at)
        if colon < 0:
            break
        start = colon
        while start > at and (line[start - 1].isalnum() or line[start - 1] in "_ -/"):
            start -= 1
        key = line[start:colon].strip()
        rest = colon + 1
        while rest < len(line) and line[rest].isspace():
            rest += 1
        if rest < len(line) and line[rest] == '"':
            end = rest + 1
            while end < len(line) and line[end] != '"':
                end += 2 if line[end] == "\\" else 1
            value, at = json.loads(line[rest : end + 1]), end + 2
        else:
            end = line.find(",", rest)
            end = len(line) if end < 0 else end
            value, at = line[rest:end], end + 1
        if len(key) > 1 and value:
            first, x, second = value.partition("x")
            if x and first.isdigit() and second.isdigit():
                pairs[f"{key}-1"], pairs[f"{key}-2"] = first, second
            else:
                pairs[key] = value
    return pairs


class FakeScript:
    is_img2img = False
    infotext_fields = None
    paste_field_names = None

    def elem_id(self, name):
        return f"script_{'img2img' if self.is_img2img else 'txt2img'}_attention_lab_{name}"


class FakePasteField(tuple):
    def __new__(cls, component, target, *, api=None):
        return super().__new__(cls, (component, target))

    def __init__(self, component, target, *, api=None):
        self.component, self.function, self.api = component, target, api


class FakeRunner:
    """``ScriptRunner``: the scripts that take part in a job."""

    def __init__(self):
        self.scripts, self.alwayson_scripts = [], []


class FakeState:
    """`shared.state`: what the host's job is at, and what the user wants of it."""

    def __init__(self):
        self.job_count, self.job_no, self.job, self.textinfo = -1, 0, "", None
        self.interrupted = self.skipped = self.stopping_generation = False

    def begin(self, job="(unknown)"):
        self.__init__()
        self.job = job

    def end(self):
        self.job, self.job_count = "", 0

    def interrupt(self):
        self.interrupted = True


class FakeAxisOption:
    def __init__(self, label, type, apply, format_value=None, confirm=None, cost=0.0, choices=None, prepare=None):
        self.label, self.type, self.apply, self.confirm, self.choices = label, type, apply, confirm, choices


class FakeOption:
    """`shared.OptionInfo`: what a setting is, and what is said of it."""

    def __init__(self, default, label, component=None, component_args=None, section=None):
        self.default, self.label, self.component, self.section = default, label, component, section
        self.component_args, self.told, self.reload = component_args, "", False

    def info(self, text):
        self.told = text
        return self

    def needs_reload_ui(self):
        self.reload = True
        return self


def font(size):
    from PIL import ImageFont

    return ImageFont.load_default(size)


def fake_grid_data(module_name="xyz_grid.py"):
    """What the host's list of scripts holds for X/Y/Z plot."""
    grid = SimpleNamespace(
        AxisOption=FakeAxisOption,
        axis_options=[FakeAxisOption("Nothing", str, None)],
        boolean_choice=lambda reverse=False: lambda: ["False", "True"] if reverse else ["True", "False"],
    )
    return SimpleNamespace(script_class=type("Script", (), {"__module__": module_name}), module=grid)


class Callbacks(types.ModuleType):
    """`modules.script_callbacks`: keeps what was registered, by kind."""

    def __init__(self):
        super().__init__("modules.script_callbacks")
        self.registered = {}

    def __getattr__(self, name):
        if not name.startswith("on_"):
            raise AttributeError(name)
        return lambda function, name_=name, **_: self.registered.setdefault(name_, []).append(function)

    @property
    def callback_map(self):
        """Every callback with the file that registered it."""
        return {
            f"callbacks_{name[3:]}": [types.SimpleNamespace(callback=f, script=_file_of(f)) for f in functions]
            for name, functions in self.registered.items()
        }


def _file_of(function):
    return getattr(getattr(function, "__code__", None), "co_filename", "")


def _module(name, **content):
    module = types.ModuleType(name)
    vars(module).update(content)
    sys.modules[name] = module
    return module


def prompt_schedules(prompts, base_steps, hires_steps=None, use_old_scheduling=False):
    """Prompt editing, reduced to ``a>b``: a in the first half of the steps, b in the second."""
    steps = hires_steps or base_steps
    out = []
    for prompt in prompts:
        first, found, second = prompt.partition(">")
        out.append([[steps // 2, first], [steps, second]] if found else [[steps, prompt]])
    return out


def install_fake_host(data_path):
    """Put a fake ``modules`` package into `sys.modules`; returns it."""
    import contextlib

    import gradio as gr

    @contextlib.contextmanager
    def input_accordion(value, label, elem_id):
        control = gr.Checkbox(value, label=label, elem_id=f"{elem_id}-checkbox", visible=False)
        with gr.Accordion(label, open=value, elem_id=elem_id):
            yield control

    callbacks = sys.modules["modules.script_callbacks"] = Callbacks()
    opts = SimpleNamespace(upcast_attn=False, use_old_scheduling=False)
    opts.added, opts.data = {}, {}
    opts.add_option = lambda key, option: opts.added.update({key: option})
    shared = _module(
        "modules.shared", sd_model=None, loaded_hypernetworks=[], opts=opts, OptionInfo=FakeOption, state=FakeState()
    )
    scripts = _module(
        "modules.scripts", Script=FakeScript, ScriptRunner=FakeRunner, AlwaysVisible=object(), scripts_data=[],
        scripts_txt2img=FakeRunner(), basedir=lambda: str(ROOT),
    )  # fmt: skip
    tasks = {name: lambda *_: None for name in ("add_task_to_queue", "start_task", "finish_task")}
    fake = _module(
        "modules",
        __path__=[],
        shared=shared,
        scripts=scripts,
        script_callbacks=callbacks,
        prompt_parser=_module(
            "modules.prompt_parser",
            get_learned_conditioning_prompt_schedules=prompt_schedules,
            reconstruct_multicond_batch=lambda cond, step: ([[(0, 1.0)]], cond),
        ),
        paths=_module("modules.paths", data_path=str(data_path), models_path=str(data_path / "models")),
        sd_unet=_module("modules.sd_unet", current_unet=None),
        sd_models=_module("modules.sd_models", model_data=SimpleNamespace(sd_model=None)),
        images=_module("modules.images", get_font=font),
        devices=_module("modules.devices", cpu="cpu", device=torch.device("cpu")),
        extensions=_module("modules.extensions", active=lambda: []),
        rng=_module("modules.rng"),
        sd_samplers=_module("modules.sd_samplers"),
        sd_samplers_common=_module("modules.sd_samplers_common", images_tensor_to_samples=None),
        processing=_module(
            "modules.processing",
            fix_seed=lambda p: None,
            process_images=None,
            StableDiffusionProcessingTxt2Img=None,
            DecodedSamples=list,
        ),
        call_queue=_module(
            "modules.call_queue", queue_lock=threading.RLock(), wrap_gradio_gpu_call=lambda f, extra_outputs=None: f
        ),
        progress=_module("modules.progress", create_task_id=lambda kind: f"task({kind}-1)", **tasks),
        infotext_utils=_module("modules.infotext_utils", PasteField=FakePasteField),
        ui_components=_module("modules.ui_components", InputAccordion=input_accordion),
    )
    network = _module("modules.hypernetworks.hypernetwork", apply_hypernetworks=lambda loaded, x: (x, x))
    fake.hypernetworks = _module("modules.hypernetworks", __path__=[], hypernetwork=network)
    return fake


@pytest.fixture(scope="session")
def fake_host(tmp_path_factory):
    """The fake ``modules`` package; stays for the whole session because `lib_attn.webui` is imported against it."""
    pytest.importorskip("gradio", reason="the panel needs gradio (pip install gradio==3.41.2)")
    return install_fake_host(tmp_path_factory.mktemp("data"))


def load_script():
    """Run scripts/attention_lab.py as the host does: not in `sys.modules`, our folder first in the path meanwhile."""
    before = sys.path
    sys.path = [str(ROOT), *before]
    try:
        spec = importlib.util.spec_from_file_location("attention_lab.py", SCRIPT)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path = before


@pytest.fixture
def host(fake_host, monkeypatch):
    """The fake host in its initial state."""
    monkeypatch.setattr(fake_host.shared, "sd_model", None)
    monkeypatch.setattr(fake_host.sd_unet, "current_unet", None)
    monkeypatch.setattr(fake_host.scripts, "scripts_data", [fake_grid_data()])
    fake_host.script_callbacks.registered.clear()
    return fake_host


@pytest.fixture
def script_module(host):
    """A fresh run of the script file, its callbacks registered with the fake host."""
    return load_script()


@pytest.fixture
def webui_dir():
    """The checkout named by WEBUI_DIR; skips without one."""
    folder = os.environ.get("WEBUI_DIR")
    if not folder:
        pytest.skip("WEBUI_DIR names no stable-diffusion-webui")
    return Path(folder)
