"""Test-only extension: looks at the model from inside the host. It hooks and registers nothing that samples."""

from modules import errors, script_callbacks, scripts, sd_models

seen = {"errors": [], "comments": []}
report = errors.report


def noting_report(message, *, exc_info=False):
    if message.startswith("Error") and "attention_lab.py" in message:
        seen["errors"].append(message)
    report(message, exc_info=exc_info)


def leftovers():
    """Names of modules with a hook or an instance forward of ours."""
    found = []
    for name, part in sd_models.model_data.sd_model.model.diffusion_model.named_modules():
        values = [vars(part).get("forward"), *part._forward_hooks.values(), *part._forward_pre_hooks.values()]
        if any("lib_attn" in (type(v).__module__ + getattr(v, "__module__", "")) for v in values if v is not None):
            found.append(name)
    return found


class ConflictProbe(scripts.Script):
    def title(self):
        return "Conflict probe"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def postprocess(self, p, processed):
        seen["comments"] = list(p.comments)


def state():
    found, seen["errors"] = seen["errors"], []
    return {"leftovers": leftovers(), "comments": seen["comments"], "errors": found}


errors.report = noting_report
script_callbacks.on_app_started(lambda demo, app: app.add_api_route("/attention-lab-probe/state", state))
script_callbacks.on_script_unloaded(lambda: setattr(errors, "report", report))
