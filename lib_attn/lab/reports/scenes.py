"""What a page shows of ``scenebench run`` and of ``bench ablation``: how good a model is, and what it needs attention
for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lib_attn.lab.measuring.ablation import AblationRow
from lib_attn.lab.reports.tables import ablation_table
from lib_attn.lab.shared.markdown import markdown_table, share_of
from lib_attn.lab.shared.results import from_json

PARTS = {"single": "one object", "pair": "two objects", "several": "two or three of a kind"}
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
        f"± one standard error"
    )
    return f"`{result['command']}`, {told}:\n\n{ablation_table(rows)}"


def scenes_block(result: Mapping) -> str:
    """What a page shows of ``scenebench run``."""
    told = (
        f"`{result['command']}`, {result['width']} × {result['height']} px by {result['checkpoint']}, "
        f"{result['steps']} steps {result['sampler']}, CFG {result['cfg']:g}, ± one standard error"
    )
    return f"{told}:\n\n{scenes_table(result['results'])}"


def scenes_table(found: Mapping) -> str:
    """A line for each part that was drawn, then what agrees, and the autoencoder."""
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
        error = f" ± {agreed['all_error']:.2f}" if "all_error" in agreed else ""
        yield "agreement where the prompt leaves something open", str(agreed["pictures"]), f"{agreed['all']:.2f}{error}"
    for surface, trip in found.get("autoencoder", {}).items():
        yield f"autoencoder, {surface} renders", str(trip["pictures"]), f"{trip['psnr']:.1f} ± {trip['error']:.1f} dB"
