"""The jobs that are tried beside every neighbour, and what is asked of their pictures."""

from lib_attn.settings import GROUPS
from tests.conflicts.neighbours import PROMPT
from tests.host.negatives import arrays

SMALL = {"prompt": PROMPT, "negative_prompt": "blue, blurry", "steps": 3, "width": 128, "height": 128, "seed": 7}
HIRES = {"enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "Latent", "denoising_strength": 0.7}
INSTALLED_KINDS = ("batch 2, CFG 7", "batch 1, CFG 1")
KINDS = {
    "batch 1, CFG 7": {},
    "batch 2, CFG 7": {"batch_size": 2},
    "batch 1, CFG 1": {"cfg_scale": 1},
    "batch 2, CFG 1": {"cfg_scale": 1, "batch_size": 2},
    "hires": HIRES,
}
MESSAGES = "Attention Lab messages"
OFF = {"general": {"enabled": False}}
MASTER = "master switch"
ALL = "all together"
_NAMED = {
    "Near-sighted": {"near_sighted": {"enabled": True, "tile": 8, "pool": 4, "blocks": "all"}},
    "Negative skip": {"negative_skip": {"enabled": True, "key_every": 3, "early": 0.0, "penalty": "off"}},
    "NAG": {"negative_skip": {"enabled": True, "key_every": 1, "penalty": "NAG", "penalty_when": "at CFG 1"}},
    "Contrast": {"contrast": {"enabled": True, "feature": 0.5, "keys": 0.5, "orthogonal": 0.3, "blocks": "all"}},
    "Key mix": {"key_mix": {"enabled": True, "blocks": "all"}},
    "Step skip": {"step_skip": {"enabled": True, "key_every": 3, "early": 0.0}},
    "Dictionary": {"dictionary": {"enabled": True, "atoms": 16, "full_first": 0.0, "blocks": "all"}},
    "Thin QK": {"thin_qk": {"enabled": True, "choose": "budget", "budget": 0.5, "when": "always", "blocks": "all"}},
    "Depth guide": {"depth_guide": {"enabled": True, "map_steps": 2, "show": False}},
}
_OTHERS = {
    group.label: {group.name: {"enabled": True}}
    for group in GROUPS
    if group.name != "general" and not any(group.name in settings for settings in _NAMED.values())
}
_MERGED = {name: values for settings in (*_NAMED.values(), *_OTHERS.values()) for name, values in settings.items()}
_MERGED["negative_skip"] = {"enabled": True, "key_every": 3, "early": 0.0, "penalty": "NAG"}
TECHNIQUES = {MASTER: {"general": {"enabled": True}}, **_NAMED, **_OTHERS, ALL: _MERGED}
MIXES_IMAGES = {"Key mix", ALL}

ROUNDING = 0.02  # mean difference out of 255 of what is the same but for the rounding of another batch size


def said(pictures):
    """What we told a client of the API about these pictures."""
    return pictures.parameters.get(MESSAGES, "")


def distance(ones, others):
    """Largest mean difference of two answers' pictures, out of 255; maps that others put behind them are left out."""
    return max(abs(one - other).mean() for one, other in zip(arrays(ones), arrays(others), strict=False))
