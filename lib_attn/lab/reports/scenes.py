"""What a page shows of ``scenebench`` and of ``bench ablation``: how good a model is, what it needs attention for, and
what judges it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from lib_attn.lab.judging.agreement import PARTS as AGREEMENTS
from lib_attn.lab.measuring.ablation import AblationRow
from lib_attn.lab.measuring.renders import ALL, RenderedRow
from lib_attn.lab.reports.tables import ablation_table
from lib_attn.lab.shared.markdown import markdown_table, share_of
from lib_attn.lab.shared.results import from_json

PARTS = {"single": "one object", "pair": "two objects", "several": "two or three of a kind"}
#: Parts of `lib_attn.lab.judging.agreement.agreement`, as a page names them.
AGREE = {
    "colour": "things share the colour that is left open",
    "pattern": "things share their pattern",
    "symmetry": "a round thing's outline is its own mirror image",
    "floor": "the floor's pattern goes on behind what stands there",
}
#: Fields of `lib_attn.lab.judging.metrics.Score`, as a page names them.
SHARES = {
    "both": "every object's colour and shape right",
    "relation": "in the right order too",
    "colour": "all colours",
    "shape": "all shapes",
    "count": "as many as asked for",
    "background": "background",
}


def ablation_block(result: Mapping) -> str:
    """What a page shows of ``bench ablation``."""
    rows = [from_json(AblationRow, row) for row in result["results"]]
    asked = result["singles"] + result["pairs"]
    told = (
        f"{rows[0].pictures} pictures a row of {result['size']} px by {result['checkpoint']}, {asked} of them of "
        f"held-out combinations that the judge answers, {result['agreements']} that leave open what has to agree, "
        f"± one standard error. Agreement: of the pictures that can say, in brackets how many; the last four columns "
        f"are its parts, each of those among them that can say"
    )
    return f"`{result['command']}`, {told}:\n\n{ablation_table(rows)}"


def renders_block(result: Mapping) -> str:
    """What a page shows of ``scenebench renders``."""
    rows = [from_json(RenderedRow, row) for row in result["results"]]
    names = (ALL, *AGREEMENTS)
    lines = [[row.name, *(_figure(row.figures.get(name)) for name in names)] for row in rows]
    told = f"`{result['command']}`, {result['scenes']} renders of {result['size']} px, ± one standard error"
    return f"{told}, in brackets how many can say:\n\n{markdown_table(['renders', *names], lines)}"


def _figure(found: Sequence | None) -> str:
    return f"{found[0]:.2f} ± {found[1]:.2f} ({found[2]})" if found else "-"


def scenes_block(result: Mapping) -> str:
    """What a page shows of ``scenebench run``."""
    told = (
        f"`{result['command']}`, {result['width']} × {result['height']} px by {result['checkpoint']}, "
        f"{result['steps']} steps {result['sampler']}, CFG {result['cfg']:g}, ± one standard error"
    )
    return f"{told}:\n\n{scenes_table(result['results'])}"


def scenes_table(found: Mapping) -> str:
    """A line for each part that was drawn, then what agrees, the autoencoder, and the judge itself."""
    return markdown_table(["what", "pictures", "figure"], [list(line) for line in _lines(found)])


def _lines(found: Mapping) -> Iterator[tuple[str, str, str]]:
    for part, what in PARTS.items():
        if part in found:
            count = found[part]["pictures"]
            shown = {name: told for name, told in SHARES.items() if part == "pair" or name != "relation"}
            for name, told in shown.items():
                yield f"{what}: {told}", str(count), share_of(found[part][name], count)
    agreed = found.get("agreement", {})
    if "all" in agreed:
        for name, what in {"all": "where the prompt leaves something open", **AGREE}.items():
            if name in agreed:
                error = f" ± {agreed[f'{name}_error']:.2f}" if f"{name}_error" in agreed else ""
                count = agreed["pictures"] if name == "all" else agreed.get(f"{name}_pictures", "")
                yield f"agreement: {what}", str(count), f"{agreed[name]:.2f}{error}"
    for surface, trip in found.get("autoencoder", {}).items():
        yield f"autoencoder, {surface} renders", str(trip["pictures"]), f"{trip['psnr']:.1f} ± {trip['error']:.1f} dB"
    judge = found.get("judge", {})
    if "everything" in judge and any(part in found for part in PARTS):
        right, renders = judge["everything"], judge["renders"]
        error = 100 * (right * (1 - right) / renders) ** 0.5
        yield "the judge itself: all right, renders it has not seen", str(renders), f"{100 * right:.1f} % ± {error:.1f}"
        yield "the judge itself: overlap of its masks with theirs", str(renders), f"{judge['mask_iou']:.2f}"
