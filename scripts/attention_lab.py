"""Attention Lab in stable-diffusion-webui: the only file that the host loads.

All the work is done in `lib_attn`. Everything is imported here, at the top: the host has this extension's folder in
its search path only while this file runs.
"""

import os

from modules import paths, script_callbacks, scripts
from modules.infotext_utils import PasteField
from modules.ui_components import InputAccordion

from lib_attn.presets import Presets
from lib_attn.webui import (
    compare,
    controlnet,
    host,
    infotext,
    job,
    learn_tab,
    learning,
    live,
    options,
    panel,
    preset_actions,
    xyz,
)

PRESETS = Presets(os.path.join(paths.data_path, "attention_lab", "presets"))
PASTED = preset_actions.preset_readers(PRESETS)
DOCS = os.path.join(scripts.basedir(), "docs")


def surroundings():
    """What the panel's sentences depend on beside the panel."""
    profile = host.profile()
    known = {} if profile is None else {"fitting": host.fitting}  # which would make the host load a model
    return live.Surroundings(
        profile, job.recorded(), job.forget_recorded, host.files, controlnet.lacking, job.latest, job.keeps, **known
    )


def docs(name):
    """Address of a page of the docs; the host serves files of its extensions."""
    return "file=" + os.path.join(DOCS, name).replace("\\", "/")


def add_axes():
    xyz.install(scripts.scripts_data, PRESETS, options.all_axes(), host.files)


class AttentionLab(scripts.Script):
    """Hands the host's hooks on to the job."""

    def title(self):
        return host.TITLE

    def show(self, is_img2img):
        add_axes()  # with --nowebui the host builds all scripts before it announces its page
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        built = panel.build(
            elem_id=self.elem_id,
            switch=InputAccordion,
            presets=PRESETS,
            surroundings=surroundings,
            docs=docs,
            files=host.files,
            start_with=options.first_preset,
            compare=True,
        )
        fields = [(built.controls[key], reader) for key, reader in infotext.READERS.items()]
        fields += [(built.preset[part], reader) for part, reader in PASTED.items()]
        self.infotext_fields = [PasteField(component, reader) for component, reader in fields]
        self.paste_field_names = [reader for _, reader in fields]
        return built.inputs()

    def before_process(self, p, *args):
        job.clear(p)
        job.reserve(p, args)
        compare.before(p, self, args)

    def process(self, p, *args):
        job.begin(p, args)

    def process_before_every_sampling(self, p, *args, **kwargs):
        job.before_sampling(p, (kwargs.get("c"), kwargs.get("uc")), kwargs.get("x"), kwargs.get("noise"))

    def postprocess_batch(self, p, *args, **kwargs):
        job.after_batch(p)

    def postprocess(self, p, processed, *args):
        job.finish(p, processed)
        compare.after(p, processed)


script_callbacks.on_model_loaded(job.on_model_loaded)
script_callbacks.on_cfg_denoiser(job.on_cfg_denoiser)
script_callbacks.on_cfg_denoised(job.on_cfg_denoised)
script_callbacks.on_ui_settings(lambda: options.add(PRESETS.names))
script_callbacks.on_ui_tabs(learn_tab.build)
script_callbacks.on_app_started(learning.add_route)
script_callbacks.on_before_ui(add_axes)
script_callbacks.on_script_unloaded(job.release_all)
