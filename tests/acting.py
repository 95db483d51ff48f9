"""Settings with which each technique acts on a tiny U-Net at 16 x 16 places; together they reach all of its hooks."""

from lib_attn import techniques

#: Without those that have something drawn first: that takes a sampler of the host's own.
TECHNIQUES = tuple(technique for technique in techniques.TECHNIQUES if not technique.draws_first)

#: By technique. One that is not here acts with its defaults.
VALUES = {
    "near_sighted": ({"tile": 8, "pool": 4}, {"tile": 8, "pool": 4, "exact_every": 2}),
    "negative_skip": (
        {"key_every": 2, "early": 0.0, "penalty_when": "all steps"},
        {"key_every": 2, "early": 0.0, "penalty": "off", "through": 2},
        {"until": 0.5, "stopped": "T-GATE", "penalty": "off"},
    ),
    "contrast": ({"feature": 0.5, "keys": 0.5, "orthogonal": 0.3, "map_strength": 0.5, "show_map": True},),
    "key_mix": ({"source": "blurred", "features": "follow"}, {"source": "previous step", "operator": "concatenate"}),
    "dictionary": ({"atoms": 8, "full_first": 0.0}, {"atoms": 8, "full_first": 0.0, "mode": "global", "tile": 8}),
    "thin_qk": ({"choose": "fixed", "channels": 4, "round_to": 1, "when": "always"},),
    "step_skip": ({"key_every": 2.0, "early": 0.0},),
}


#: Hooks that are called only with a learned file.
WITH_FILE = {"dictionary": {"edit", "cross"}}

#: With these a technique is on, and what comes out is what comes without it. One that is not here has no such values.
EXACT = {
    "near_sighted": {"tile": 256},
    "negative_skip": {"key_every": 1, "penalty": "off"},
    "contrast": {"feature": 0.0, "show_map": True},
    "key_mix": {"amount": 0.0, "record": True},
    "dictionary": {"blend": 0.0},
    "thin_qk": {"energy": 1.0},
    "step_skip": {"key_every": 1.0},
}


def everywhere(technique, **values) -> dict:
    """Values that switch `technique` on in all blocks."""
    blocks = {"blocks": "all"} if any(p.name == "blocks" for p in technique.params()) else {}
    return {"enabled": True, **blocks, **values}


def acting(technique) -> list[dict]:
    """What the API is given to switch `technique` on, in each of its ways."""
    return [everywhere(technique, **values) for values in VALUES.get(technique.name, ({},))]


#: (technique, values) of every way.
WAYS = [(technique, values) for technique in TECHNIQUES for values in acting(technique)]
IDS = [f"{technique.name} {number}" for technique in TECHNIQUES for number, _ in enumerate(acting(technique))]
