"""Test-only extension: looks at the model from inside the host, and breaks jobs on purpose."""

import os
import sys

import gradio as gr
from modules import errors, infotext_utils, script_callbacks, scripts, sd_models, shared

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", ".."))
import rows_matrix

seen = {"patched": [], "comments": [], "errors": [], "break": ("", -1), "step": 0}
report = errors.report


def noting_report(message, *, exc_info=False):
    if message.startswith("Error") and "attention_lab.py" in message:
        seen["errors"].append(message)
    report(message, exc_info=exc_info)


def unet():
    return sd_models.model_data.sd_model.model.diffusion_model


def leftovers(module=None):
    """Names of modules with a hook or an instance forward of ours. Hooks of the host itself are none of ours."""
    found = []
    for name, part in (module or unet()).named_modules():
        values = [vars(part).get("forward"), *part._forward_hooks.values(), *part._forward_pre_hooks.values()]
        if any("lib_attn" in (type(v).__module__ + getattr(v, "__module__", "")) for v in values if v is not None):
            found.append(name)
    return found


def everything(module):
    """All attributes and hooks of all modules, by identity."""
    state = {}
    for name, part in module.named_modules():
        for key, value in vars(part).items():
            if key in ("_parameters", "_buffers", "_modules"):
                state[name, key] = {k: id(v) for k, v in value.items()}
            elif "hooks" in key:
                state[name, key] = list(value)
            else:
                state[name, key] = id(value)
    return state


class Probe(scripts.Script):
    def title(self):
        return "Probe"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        return [gr.Textbox("", label="Break how", visible=False), gr.Number(-1, label="Break when", visible=False)]

    def before_process(self, p, how, when):
        seen.update({"patched": [], "comments": [], "break": (how, when), "step": 0})
        seen["p"] = p

    def process_before_every_sampling(self, p, *args, **kwargs):
        seen["before"] = (unet(), everything(unet()))

    def postprocess(self, p, processed, *args):
        seen["comments"] = list(p.comments)


def on_cfg_denoiser(params):
    seen["patched"].append(len(leftovers()))


def on_cfg_denoised(params):
    how, when = seen["break"]
    if seen["step"] == when:
        if how == "interrupt":
            shared.state.interrupt()
        elif how == "skip":
            shared.state.skip()
        elif how == "error":
            # Callbacks are caught by the host; a result of the wrong shape is not.
            params.x.resize_(0)
    seen["step"] += 1


def state():
    before = seen.get("before")
    same = before is None or before[0] is not unet() or everything(unet()) == before[1]
    found = leftovers()
    errors_found, seen["errors"] = seen["errors"], []
    return {
        "leftovers": found if same else found or ["an attribute differs"],
        "patched": seen["patched"],
        "comments": seen["comments"] or list(getattr(seen.get("p"), "comments", {})),
        "errors": errors_found,
    }


def on_app_started(demo, app):
    def route(path, function, methods=("GET",)):
        app.add_api_route(f"/attention-lab-probe/{path}", function, methods=list(methods))

    def parse(lines: list[str]):
        return [infotext_utils.parse_generation_parameters(line) for line in lines]

    def quote(values: list[str]):
        return [infotext_utils.quote(value) for value in values]

    def axes():
        grid = next(d.module for d in scripts.scripts_data if "xyz_grid" in d.script_class.__module__)
        return [axis.label for axis in grid.axis_options]

    def callbacks():
        kinds = script_callbacks.callback_map
        return {k: sum("attention_lab.py" in str(c.script) for c in found) for k, found in kinds.items()}

    def reload():
        shared.state.request_restart()

    for path, function in [("state", state), ("axes", axes), ("callbacks", callbacks), ("rows", rows_matrix.run)]:
        route(path, function)
    for path, function in [("parse", parse), ("quote", quote), ("reload", reload)]:
        route(path, function, ["POST"])


errors.report = noting_report
script_callbacks.on_app_started(on_app_started)
script_callbacks.on_cfg_denoiser(on_cfg_denoiser)
script_callbacks.on_cfg_denoised(on_cfg_denoised)
script_callbacks.on_script_unloaded(lambda: setattr(errors, "report", report))
