"""Test-only extension: looks at the model from inside the host, and breaks jobs on purpose."""

import copy
import hashlib
import os
import sys

import gradio as gr
import torch
from modules import errors, infotext_utils, script_callbacks, scripts, sd_models, shared
from modules.processing import StableDiffusionProcessingImg2Img, process_images

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", ".."))
import rows_matrix

FRESH = {"patched": [], "comments": [], "break": ("", -1), "step": 0, "inner": {}, "calls": [], "controls": []}
seen = {"errors": [], **copy.deepcopy(FRESH)}
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


def note_call(block, args):
    seen["calls"].append(list(args[0].shape))


def count_rows(model):
    """Note the shape of what enters the first block in each call, behind whatever sits at the U-Net's boundary."""
    first = model.input_blocks[0][0]  # a hook on the block itself would be taken for one that counts on all rows
    if note_call not in first._forward_pre_hooks.values():
        first.register_forward_pre_hook(note_call)


class Probe(scripts.Script):
    def title(self):
        return "Probe"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        return [gr.Textbox("", label="Break how", visible=False), gr.Number(-1, label="Break when", visible=False)]

    def before_process(self, p, how, when):
        if is_inner(p):
            return
        seen.update(copy.deepcopy(FRESH) | {"break": (how, when), "p": p})

    def process_before_every_sampling(self, p, how, when, **kwargs):
        if how == "interrupt" and when < 0:
            shared.state.interrupt()  # before the first step
        count_rows(unet())
        seen["before"] = (unet(), everything(unet()))

    def postprocess_image(self, p, pp, how, when):
        if how == "inner" and not is_inner(p):
            seen["inner"] = {"patched": [], "leftovers_before": leftovers()}
            made = repaint(p, pp.image, p.scripts)
            seen["inner"].update(text=made.infotexts[0], comments=made.comments, leftovers=leftovers())
            seen["inner"]["exact"] = same(made, repaint(p, pp.image, None))
            pp.image = made.images[0]

    def postprocess(self, p, processed, *args):
        if not is_inner(p):
            seen["comments"] = list(p.comments)


def is_inner(p):
    return getattr(p, "_ad_inner", False)


def same(one, other):
    return one.images[0].tobytes() == other.images[0].tobytes()


def repaint(p, picture, runner):
    """A job within a job, put together as ADetailer does: an img2img with the outer job's scripts and their values."""
    inner = StableDiffusionProcessingImg2Img(
        init_images=[picture], denoising_strength=0.5, prompt=p.prompt, negative_prompt=p.negative_prompt, seed=p.seed,
        steps=p.steps, cfg_scale=p.cfg_scale, width=p.width, height=p.height, sampler_name=p.sampler_name,
        scheduler=p.scheduler, sd_model=p.sd_model, do_not_save_samples=True, do_not_save_grid=True,
    )  # fmt: skip
    inner.is_api = True  # otherwise the next line takes the seed from the controls
    inner.scripts, inner.script_args = copy.copy(runner), list(p.script_args)
    inner._ad_inner = True
    torch.manual_seed(1)  # the host draws the noise of the picture's encoding from the global generator
    return process_images(inner)


def on_cfg_denoiser(params):
    if "before" not in seen:  # the job runs without this script
        return
    if unet() is not seen["before"][0]:  # the refiner
        count_rows(unet())
    note_controls(params)
    if not is_inner(params.denoiser.p):
        seen["patched"].append(len(leftovers()))
    elif params.denoiser.p.scripts is not None:
        seen["inner"]["patched"].append(len(leftovers()))
    break_off(params)


def note_controls(params):
    """What ControlNet is going to do in this step: of each unit its start, the hint that it has and its picture."""
    runner = getattr(params.denoiser.p, "scripts", None)
    units = [s for s in getattr(runner, "alwayson_scripts", ()) if s.title() == "ControlNet"]
    found = [getattr(s.latest_network, "control_params", None) or [] for s in units]
    if not found:
        return
    hires = bool(getattr(params.denoiser.p, "is_hr_pass", False))
    seen["controls"].append({
        "steps": params.total_sampling_steps, "hires": hires,
        "units": [{"start": u.start_guidance_percent, "end": u.stop_guidance_percent, "weight": u.weight,
                   "hires": u.hr_option.name, "hint": summary(u.hint_cond), "large": summary(u.hr_hint_cond)}
                  for u in found[0]],
    })  # fmt: skip


def summary(hint):
    """Size of a hint, and its picture as 16 x 16 greys."""
    if not isinstance(hint, torch.Tensor):
        return None
    small = torch.nn.functional.interpolate(hint.float().cpu(), (16, 16), mode="area")[0].mean(0)
    return {"size": list(hint.shape[-2:]), "greys": [round(v, 4) for v in small.flatten().tolist()]}


def break_off(params):
    """End the sampling in the step and in the way that was asked for.

    Not behind the model: whoever has a callback there may read the negative's prediction, and then it is computed.
    """
    how, when = seen["break"]
    if seen["step"] == when:
        if how == "interrupt":
            shared.state.interrupt()
        elif how == "skip":
            shared.state.skip()
        elif how == "error":
            # Errors in callbacks are caught by the host; what comes of latents without rows is not.
            params.x = params.x[:0]
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
        "inner": seen["inner"],
        "calls": seen["calls"],
        "controls": seen["controls"],
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

    def weights():
        digest = hashlib.sha256()
        for name, tensor in sorted(unet().state_dict().items()):
            digest.update(name.encode() + tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def reload():
        shared.state.request_restart()

    for path, function in [
        ("state", state),
        ("axes", axes),
        ("callbacks", callbacks),
        ("rows", rows_matrix.run),
        ("weights", weights),
    ]:
        route(path, function)
    for path, function in [("parse", parse), ("quote", quote), ("reload", reload)]:
        route(path, function, ["POST"])


errors.report = noting_report
script_callbacks.on_app_started(on_app_started)
script_callbacks.on_cfg_denoiser(on_cfg_denoiser)
script_callbacks.on_script_unloaded(lambda: setattr(errors, "report", report))
