"""The extensions of others that are tried beside ours, and what switches each of them on through the API."""

import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REFERENCE = object()  # stands for a picture in base64
EMBEDDED, RANDOM = "reference.safetensors", "a.safetensors"  # checkpoints; the second has SD 1.x's layout
PROMPT = "a red sphere, grey background"

REPOSITORIES = {
    "adetailer": "Bing-su/adetailer",
    "CFG_Rescale_webui": "Seshelle/CFG_Rescale_webui",
    "multidiffusion-upscaler-for-automatic1111": "pkuliyi2015/multidiffusion-upscaler-for-automatic1111",
    "sd-dynamic-thresholding": "mcmonkeyprojects/sd-dynamic-thresholding",
    "sd-webui-animatediff": "continue-revolution/sd-webui-animatediff",
    "sd-webui-cads": "v0xie/sd-webui-cads",
    "sd-webui-cd-tuner": "hako-mikan/sd-webui-cd-tuner",
    "sd-webui-controlnet": "Mikubill/sd-webui-controlnet",
    "sd-webui-freeu": "ljleb/sd-webui-freeu",
    "sd-webui-incantations": "v0xie/sd-webui-incantations",
    "sd-webui-kohya-hiresfix": "wcde/sd-webui-kohya-hiresfix",
    "sd-webui-negpip": "hako-mikan/sd-webui-negpip",
    "sd-webui-neutral-prompt": "ljleb/sd-webui-neutral-prompt",
    "sd-webui-regional-prompter": "hako-mikan/sd-webui-regional-prompter",
    "sd-webui-token-downsampling": "feffy380/sd-webui-token-downsampling",
    "sd_webui_SAG": "ashen-sensored/sd_webui_SAG",
}
"""Folder: repository on GitHub."""
WITH_PAGES = {"sd-webui-token-downsampling"}  # their settings exist only where the pages are made


@dataclass(frozen=True)
class Neighbour:
    """One way to have extensions of others at work in a job.

    name: for the page. folders: what is installed. scripts: their arguments; empty together with the next two when
    they are only installed. fields, options: of the request, of the host's settings. checkpoint: for those that work
    on SD 1.x's layout alone.
    """

    name: str
    folders: tuple[str, ...] = ()
    scripts: dict[str, list] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    checkpoint: str = EMBEDDED

    @property
    def used(self) -> bool:
        return bool(self.scripts or self.fields or self.options)

    @property
    def work(self) -> dict[str, Any]:
        """What a job is drawn with to have them at work."""
        return {"scripts": self.scripts, "options": self.options, **self.fields}

    def __str__(self) -> str:
        return self.name.replace(" ", "-").replace(":", "")


def regional(mode: str) -> list:
    """Two halves side by side."""
    how = [True, False, "Matrix", "Horizontal", "Mask", "Prompt", "1,1", "0.2", False, False, False, mode]
    return [*how, [], "0", "0", "0", "", "0", "0", False]


def tiled(method: str) -> list:
    """Tiles of 16 latents, 8 in common; two at once."""
    return [True, method, False, True, 192, 192, 16, 16, 8, 2]


def reference(mode: str) -> list:
    return [{"enabled": True, "module": mode, "model": "None", "image": REFERENCE}]


KOHYA = [True, True, 3, 4, 0.5, 0.5, "bicubic", 0.5, 2.0, True, False]
SEG = [True, 11.0, 0, 150]
NO_SEG = [False, 11.0, 0, 150]
SCFG = [True, 1.0, 0.8, 3.0, 10.0, 0, 150, 4]
NO_SCFG = [False, *SCFG[1:]]
PAG = [True, 3.0, 0, 150]
TWO_REGIONS = {"prompt": f"{PROMPT} BREAK a green cone, grey background"}
LARGER = {"width": 192, "height": 192}

NEIGHBOURS = (
    Neighbour("nothing else"),
    Neighbour("ADetailer, installed", ("adetailer",)),
    Neighbour("AnimateDiff, installed", ("sd-webui-animatediff",)),
    Neighbour("CFG rescale", ("CFG_Rescale_webui",), {"CFG Rescale Extension": [0.7, False, 1.0, False]}),
    Neighbour("Tiled Diffusion: MultiDiffusion", ("multidiffusion-upscaler-for-automatic1111",),
              {"Tiled Diffusion": tiled("MultiDiffusion")}, LARGER),
    Neighbour("Tiled Diffusion: Mixture of Diffusers", ("multidiffusion-upscaler-for-automatic1111",),
              {"Tiled Diffusion": tiled("Mixture of Diffusers")}, LARGER),
    Neighbour("Dynamic Thresholding", ("sd-dynamic-thresholding",),
              {"Dynamic Thresholding (CFG Scale Fix)": [True, 5.0, 95.0]}),
    Neighbour("CADS", ("sd-webui-cads",), {"CADS": [True]}),
    Neighbour("CD Tuner", ("sd-webui-cd-tuner",), {"CD Tuner": [True, 3.0, 0.0, 2.0, 0.0, 1.0]}),
    Neighbour("ControlNet: reference_only", ("sd-webui-controlnet",), {"ControlNet": reference("reference_only")},
              checkpoint=RANDOM),
    Neighbour("ControlNet: reference_adain", ("sd-webui-controlnet",), {"ControlNet": reference("reference_adain")},
              checkpoint=RANDOM),
    Neighbour("FreeU", ("sd-webui-freeu",), {"FreeU": [True]}),
    Neighbour("Incantations: SEG", ("sd-webui-incantations",), {"Incantations": SEG}, checkpoint=RANDOM),
    Neighbour("Incantations: S-CFG", ("sd-webui-incantations",), {"Incantations": [*NO_SEG, *SCFG]}),
    Neighbour("Incantations: PAG", ("sd-webui-incantations",), {"Incantations": [*NO_SEG, *NO_SCFG, *PAG]}),
    Neighbour("Kohya hires fix", ("sd-webui-kohya-hiresfix",), {"Kohya Hires.fix": KOHYA}),
    Neighbour("ControlNet reference_only with Kohya hires fix", ("sd-webui-controlnet", "sd-webui-kohya-hiresfix"),
              {"ControlNet": reference("reference_only"), "Kohya Hires.fix": KOHYA}, checkpoint=RANDOM),
    Neighbour("NegPiP", ("sd-webui-negpip",), {"NegPiP": [True]}, {"prompt": f"{PROMPT}, (blue:-1.0)"}),
    Neighbour("Neutral Prompt: AND_PERP", ("sd-webui-neutral-prompt",), {},
              {"prompt": f"{PROMPT} AND_PERP a green cone :0.8"}),
    Neighbour("Neutral Prompt: CFG rescale", ("sd-webui-neutral-prompt",), {"Neutral Prompt": [0.5]}),
    Neighbour("Regional Prompter: Attention", ("sd-webui-regional-prompter",),
              {"Regional Prompter": regional("Attention")}, TWO_REGIONS),
    Neighbour("Regional Prompter: Latent", ("sd-webui-regional-prompter",),
              {"Regional Prompter": regional("Latent")}, TWO_REGIONS),
    Neighbour("Token downsampling", ("sd-webui-token-downsampling",), {}, {}, {"token_downsampling_factor": 2.0}),
    Neighbour("SAG", ("sd_webui_SAG",), {"Self Attention Guidance": [True, 0.75, 1.0]}, checkpoint=RANDOM),
)  # fmt: skip


def fill(value: Any, picture: str) -> Any:
    """`value` with `picture` in the places of `REFERENCE`."""
    if value is REFERENCE:
        return picture
    if isinstance(value, dict):
        return {key: fill(part, picture) for key, part in value.items()}
    return [fill(part, picture) for part in value] if isinstance(value, list) else value


def api_scripts(scripts: dict[str, list], picture: str) -> dict[str, dict]:
    """What the API takes for `scripts`."""
    return {name: {"args": fill(args, picture)} for name, args in scripts.items()}


def commit(folder: Path) -> str:
    """What is checked out in `folder`; ``unknown`` when it is no checkout."""
    command = ["git", "-C", str(folder), "log", "-1", "--format=%h %cs"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 and (folder / ".git").exists() else "unknown"
