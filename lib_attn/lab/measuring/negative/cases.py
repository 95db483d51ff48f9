"""Ways to leave the negative out, to make it act, and to compare with it, that the measurements have in common."""

from __future__ import annotations

from lib_attn.lab.drawing.variants import Variant, preset, setting
from lib_attn.lab.measuring.cost import ONE_ROW, Case

SKIP = "negative_skip."

#: The preset of each penalty and what is changed in it: NASA has none of its own.
PENALTIES: dict[str, tuple[str, dict]] = {
    "NAG": ("Negative prompt at CFG 1 (NAG)", {}),
    "VSF": ("Negative prompt at CFG 1 (VSF)", {}),
    "NASA": ("Negative prompt at CFG 1 (VSF)", {"penalty": "NASA", "strength": 0.5}),
}

#: Strengths above those of the presets.
STRONGER = {"NAG": 4.0, "VSF": 3.0}


def penalty(short: str, **changes) -> Variant:
    """Negative skip with a penalty as its preset has it. changes: by name without the technique."""
    name, own = PENALTIES[short]
    return preset(name, **{SKIP + key: value for key, value in (own | changes).items()})


#: The operators of the technique Contrast, each alone, by name.
OPERATORS = {"feature": "feature=0.3", "keys": "feature=0; keys=0.3", "orthogonal": "feature=0; orthogonal=0.3",
             "map": "feature=0; map_strength=1"}  # fmt: skip


def compared_by(operator: str) -> Variant:
    """Contrast with one of `OPERATORS`."""
    return setting("", OPERATORS[operator])


def every(n: int, text: str = "") -> str:
    """Negative skip with every `n`-th step in full and no penalty; text: further parameters."""
    return f"{SKIP}penalty=off; {SKIP}key_every={n}; {text}"


def cost_cases() -> list[Case]:
    """Guidance with two rows first: everything is compared with it."""
    cases = [Case("CFG 5"), Case(ONE_ROW, cfg=1.0)]
    cases += [Case(f"CFG 1, {short}", penalty(short), 1.0) for short in PENALTIES]
    cases += [Case("full step every 3rd", setting("", every(3, "early=0")), steps=3)]
    cases += [Case(f"contrast: {operator}", compared_by(operator)) for operator in OPERATORS]
    return cases
