"""Make docs/compatibility.md of what a run of this folder's tests found.

ATTENTION_LAB_RESULTS=tests/conflicts/results.json python -m pytest tests/conflicts
python -m tests.conflicts.page
"""

import json
import re
from pathlib import Path

from tests.conflicts.jobs import KINDS, MASTER, ROUNDING, TECHNIQUES
from tests.conflicts.neighbours import NEIGHBOURS, REPOSITORIES
from tests.conftest import ROOT

RESULTS = Path(__file__).with_name("results.json")
PAGE = ROOT / "docs" / "compatibility.md"
HEAD = f"""# Beside other extensions

Attention Lab was installed in a real stable-diffusion-webui v1.10.1 beside real extensions of others, one at a time
(and ControlNet with Kohya hires fix). Each was switched on through the API, with small pictures and small models, on a
CPU; what is below is what such a run found, written by `python -m tests.conflicts.page`. Whoever has the checkouts
repeats it with `WEBUI_DIR=… ATTENTION_LAB_EXTENSIONS=folder python -m pytest tests/conflicts`.

Each technique was tried in {len(KINDS)} jobs: {"; ".join(KINDS)}.

- **Off**: with Attention Lab installed and off, all those jobs draw the pictures of a webui without it, to the bit.
- **Next**: after the jobs of a technique, a plain job draws what a webui without Attention Lab draws, to the bit.
- {MASTER}: nothing but "No negative at CFG 1" may act, and it changes no picture.
- Other columns: in how many of the jobs the technique changed the picture; in the others the answer has to say why
  not. "wrong" counts what did not come out as it should; it is listed below.
- A dash: not tried in that run.

"""


def made_of(found: dict) -> str:
    """The page's text."""
    return HEAD + _commits(found) + _table(found) + _details(found) + _cases(found)


def _commits(found: dict) -> str:
    lines = ["| Extension | Checked out at |", "|---|---|"]
    for folder, commit in sorted(found["commits"].items(), key=lambda pair: pair[0].lower()):
        name = REPOSITORIES[folder]
        lines.append(f"| [{name}](https://github.com/{name}) | {commit} |")
    return "\n".join(lines) + "\n\n"


def _table(found: dict) -> str:
    lines = ["| At work | Off | Next | " + " | ".join(TECHNIQUES) + " |", "|---" * (len(TECHNIQUES) + 3) + "|"]
    for neighbour in NEIGHBOURS:
        seen = found["beside"].get(neighbour.name, {})
        off = "-" if "off" not in seen else "equal" if seen["off"] == "equal" else "**differs**"
        tried = [seen[t] for t in TECHNIQUES if t in seen]
        traces = any("next plain" in text or "left on" in text for one in tried for text in one["wrong"])
        cells = [_cell(seen, technique) for technique in TECHNIQUES]
        after = "-" if not tried else "**differs**" if traces else "equal"
        lines.append(f"| {neighbour.name} | {off} | {after} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n\n"


def _cell(seen: dict, technique: str) -> str:
    if technique not in seen:
        return "-"
    wrong = [*seen[technique]["wrong"], *_more_wrong(seen, technique)]
    if wrong:
        return f"**wrong: {len(wrong)}**"
    jobs = seen[technique]["jobs"].values()
    if technique == MASTER:
        return "same; says" if any(job["said"] for job in jobs) else "same"
    acts = sum(job["changed"] > ROUNDING for job in jobs)
    return f"{acts} of {len(jobs)}" + (", says" if any(job["said"] for job in jobs) else "")


def _more_wrong(seen: dict, technique: str) -> list[str]:
    """Of the other tests of a technique."""
    found = [(what, seen.get(f"{technique}: {what}", "equal")) for what in ("batch", "installed")]
    return [f"{what}: {text}" for what, texts in found if texts != "equal" for text in texts]


def _details(found: dict) -> str:
    wrong = []
    for neighbour in NEIGHBOURS:
        seen = found["beside"].get(neighbour.name, {})
        if seen.get("off", "equal") != "equal":
            wrong += [f"- {neighbour.name}, off: {text}" for text in seen["off"]]
        for technique in TECHNIQUES:
            if technique in seen:
                texts = [*seen[technique]["wrong"], *_more_wrong(seen, technique)]
                wrong += [f"- {neighbour.name}, {technique}: {text}" for text in texts]
    text = "## What did not come out right\n\n" + ("\n".join(wrong) or "Nothing of what was tried.") + "\n\n"
    return text + "## What was said\n\n" + _spoken(found) + "\n\n"


def _spoken(found: dict) -> str:
    """Sentences in the answers and the neighbours they were said beside; without those that need no neighbour."""
    alone = _sentences(found["beside"].get(NEIGHBOURS[0].name, {}))
    beside: dict[str, list[str]] = {}
    for neighbour in NEIGHBOURS[1:]:
        for sentence in _sentences(found["beside"].get(neighbour.name, {})):
            if sentence not in alone:
                beside.setdefault(sentence, []).append(neighbour.name)
    return "\n".join(f"- {sentence} *({'; '.join(names)})*" for sentence, names in beside.items()) or "Nothing."


def _sentences(seen: dict) -> list[str]:
    """Each once, of all jobs of all techniques."""
    jobs = [job for technique in TECHNIQUES if technique in seen for job in seen[technique]["jobs"].values()]
    texts = [job["said"] for job in jobs if isinstance(job, dict) and job["said"]]
    return list(dict.fromkeys(sentence for text in texts for sentence in re.split(r"(?<=[.?]) (?=[A-Z])", text)))


def _cases(found: dict) -> str:
    lines = ["## Reports from real use", "", "| Case | Result |", "|---|---|"]
    lines += [f"| {_plain(case)} | {_plain(result)} |" for case, result in sorted(found["cases"].items())]
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    PAGE.write_text(made_of(json.loads(RESULTS.read_text())))
