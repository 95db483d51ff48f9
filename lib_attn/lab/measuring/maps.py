"""What drawn maps show, whether pictures follow them, and what the first of two passes costs."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass

import numpy as np
import torch

from lib_attn.lab.drawing.checkpoint import LabModel
from lib_attn.lab.drawing.sampling import Request, decode, sample
from lib_attn.lab.drawing.variants import FULL, Variant
from lib_attn.lab.judging import geometry
from lib_attn.lab.judging.judge import Judge
from lib_attn.lab.judging.metrics import score
from lib_attn.lab.judging.prompts import pair_prompts, single_prompts
from lib_attn.lab.shared.progress import Progress, silent
from lib_attn.learn.scenes import renderers
from lib_attn.learn.scenes.layout import Scene
from lib_attn.store import Store

#: How far a map is from its nearest render, by its kind: what that is called in a result file.
DISTANCES = {"depth": "abs_rel", "normal": "degrees"}


@dataclass(frozen=True)
class MapsSpec:
    """singles, pairs: how many prompts. size: edge of the pictures."""

    singles: int = 24
    pairs: int = 24
    size: int = 256
    steps: int = 20
    sampler: str = "DDIM"
    cfg: float = 5.0
    seed: int = 0
    batch: int = 6

    def scenes(self) -> list[Scene]:
        return single_prompts(self.singles, self.seed) + pair_prompts(self.pairs, self.seed)

    def requests(self) -> list[Request]:
        scenes = self.scenes()
        return [
            Request(tuple(s.caption for s in scenes[i : i + self.batch]),
                    tuple(self.seed + 1000 + i + k for k in range(len(scenes[i : i + self.batch]))), "", self.size,
                    self.size, self.steps, self.sampler, self.cfg)
            for i in range(0, len(scenes), self.batch)
        ]  # fmt: skip


def measure(model: LabModel, judge: Judge, spec: MapsSpec, variant: Variant, progress: Progress = silent) -> dict:
    """Figures on the maps that `variant` draws first, on the pictures of the same seeds without a map, with it and with
    the map of another prompt, and on the time. Every mean comes with its standard error."""
    drawn: dict[str, list[np.ndarray]] = {"unguided": [], "guided": [], "shuffled": []}
    maps: list[np.ndarray] = []
    for request in spec.requests():
        store = Store()
        for name in drawn:
            progress(name)
            if name == "shuffled":
                store.get("maps").swap()
            latents = sample(model, request, FULL if name == "unguided" else variant, store=store)
            drawn[name] += [np.asarray(p) for p in decode(model, latents)]
            if name == "guided":
                maps += [m.picture for m in store.get("maps").current]
    with renderers.open_renderer(spec.size) as renderer:
        figures = judged(maps, spec, geometry.MapJudge(renderer))
    return {
        "maps": figures,
        "pictures": _pictures(drawn, maps, judge, spec),
        "cost": cost(model, spec.requests()[0], variant),
    }


def judged(maps: list[np.ndarray], spec: MapsSpec, judge: geometry.MapJudge) -> dict:
    """What the maps of the prompts of `spec` show, and of other prompts, which they were not drawn for."""
    scenes = spec.scenes()
    others = [*scenes[1:], scenes[0]]
    near = [judge.nearest(m, s) for m, s in zip(maps, scenes, strict=True)]
    other = [judge.nearest(m, s) for m, s in zip(maps, others, strict=True)]
    out = {"all": asdict(geometry.score_maps(judge, maps, scenes))}
    if spec.singles and spec.pairs:
        out["single"] = asdict(geometry.score_maps(judge, maps[: spec.singles], scenes[: spec.singles]))
        out["pair"] = asdict(geometry.score_maps(judge, maps[spec.singles :], scenes[spec.singles :]))
    out["shuffled"] = asdict(geometry.score_maps(judge, maps, others))
    for place, name in enumerate(("outline", DISTANCES[judge.kind])):
        out[name] = mean([v[place] for v in near])
        out[f"{name}_shuffled"] = mean([v[place] for v in other])
    return out


def _pictures(drawn: dict[str, list[np.ndarray]], maps: list[np.ndarray], judge: Judge, spec: MapsSpec) -> dict:
    """For each way of drawing how far pictures cover their map, and how right they are. Those that followed another's
    map are held against that one and, as "own", against the map of their own prompt."""
    outlines = [_small(geometry.outline(m)) for m in maps]
    swapped = []
    for i in range(0, len(maps), spec.batch):
        part = outlines[i : i + spec.batch]
        swapped += part[1:] + part[:1]
    out = {}
    for name, pictures in drawn.items():
        verdicts, masks = judge.look(np.stack(pictures))
        against = {"overlap": swapped if name == "shuffled" else outlines, "other": swapped, "own": outlines}
        out[name] = asdict(score(verdicts, spec.scenes())) | {
            key: mean([geometry.overlap(a, b) for a, b in zip(masks, wanted, strict=True)])
            for key, wanted in against.items()
        }
    return out


def _small(outline: np.ndarray, edge: int = 32) -> np.ndarray:
    """An outline at the size of the judge's masks: places that are mostly covered."""
    shares = torch.from_numpy(outline)[None, None].float()
    return (torch.nn.functional.interpolate(shares, (edge, edge), mode="area")[0, 0] > 0.5).numpy()


def mean(values: list[float]) -> dict[str, float | None]:
    """Mean and standard error of the values that are numbers; None where there are too few."""
    found = np.array([v for v in values if np.isfinite(v)])
    error = float(found.std(ddof=1) / len(found) ** 0.5) if len(found) > 1 else None
    return {"mean": float(found.mean()) if len(found) else None, "error": error}


def cost(model: LabModel, request: Request, variant: Variant) -> dict[str, float]:
    """CPU seconds of one picture without a map, of its map, and of following it."""
    one, store = request.one(0), Store()
    times = []
    for way in (FULL, variant, variant):  # the second time the map is there
        begin = time.process_time()
        decode(model, sample(model, one, way, store=store))
        times.append(time.process_time() - begin)
    plain, both, kept = times
    return {"picture": plain, "map": both - kept, "following": kept - plain, "share": (both - kept) / plain}
