"""What drawn maps show, whether pictures follow them, and what the first of two passes costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from PIL import Image

from lib_attn.lab.drawing.checkpoint import LabModel, ModelSpec
from lib_attn.lab.drawing.encoder import load_encoder
from lib_attn.lab.drawing.sampling import Request, decode, sample
from lib_attn.lab.drawing.variants import FULL, Variant, full_key, ours, preset, read_settings
from lib_attn.lab.judging import geometry
from lib_attn.lab.judging.judge import Judge
from lib_attn.lab.judging.metrics import score
from lib_attn.lab.judging.prompts import pair_prompts, single_prompts
from lib_attn.lab.measuring.gradient import steered
from lib_attn.lab.shared.errors import LabError
from lib_attn.lab.shared.progress import Progress, silent
from lib_attn.learn.scenes import layout, renderers
from lib_attn.learn.scenes.guides import depth_picture, normals_of
from lib_attn.learn.scenes.layout import Scene
from lib_attn.schema import Technique
from lib_attn.store import Store
from lib_attn.techniques.depth_guide.head import Head, error, read_head
from lib_attn.techniques.depth_guide.maps import Map
from lib_attn.techniques.depth_guide.normals import normals_of_depth
from lib_attn.techniques.depth_guide.settings import KIND
from lib_attn.techniques.depth_guide.underdraw import drawing

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


def _shuffled(maps: Sequence[Map]) -> list[Map]:
    """Each the map of another prompt."""
    return [*maps[1:], *maps[:1]]


def _moved(maps: Sequence[Map]) -> list[Map]:
    """Each smaller and elsewhere, as a user's own may be; what comes in at an edge is far."""
    out = []
    for number, drawn in enumerate(maps):
        height, width = drawn.picture.shape[:2]
        right, down = (share * edge for share, edge in zip(MOVED[number % len(MOVED)], (width, height), strict=True))
        back = 1 / SHRUNK
        across = (back, 0, width / 2 - back * (width / 2 + right), 0, back, height / 2 - back * (height / 2 + down))
        picture = Image.fromarray(drawn.picture)
        moved = picture.transform(
            picture.size, Image.Transform.AFFINE, across, Image.Resampling.BILINEAR, fillcolor=FAR[drawn.kind]
        )
        out.append(Map(np.array(moved), kind=drawn.kind))
    return out


#: What a map shows where nothing stands, by its kind.
FAR = {"depth": (0, 0, 0), "normal": (128, 128, 255)}
#: How far maps are moved, in shares of the picture's width and height, and how much smaller they become.
MOVED, SHRUNK = ((0.1, 0.08), (-0.1, -0.08), (0.1, -0.08), (-0.1, 0.08)), 0.8
#: What pictures follow, made of the maps that were drawn for them.
WAYS: dict[str, Callable[[Sequence[Map]], list[Map]]] = {"guided": list, "shuffled": _shuffled, "moved": _moved}
LAYOUT = "Layout only"
#: What they follow by the gradient through the U-Net.
GRADIENTS = {f"gradient_{name}": name for name in WAYS}
#: What pictures follow by key mix: whose map's pass, counted from their own.
PASSES = {"keys": 0, "keys_shuffled": 1}


def measure(
    model: LabModel,
    judge: Judge,
    spec: MapsSpec,
    variant: Variant,
    progress: Progress = silent,
    keys: bool = False,
    gradient: bool = False,
    beside: str = "",
) -> dict:
    """Figures on the maps that `variant` draws first, on pictures of the same seeds, and on the time.

    The pictures are drawn without a map, with their own, with that of another prompt, and with their own made smaller
    and moved; with `keys` also by `of_the_pass`, with `gradient` by `gradient.steered`. Every mean comes with its
    standard error.

    Args:
        beside: a file that draws depth: maps of normals are held against its maps of the same prompts and seeds.
    """
    passes = PASSES if keys else {}
    steep, head = (GRADIENTS, head_in(model, variant)) if gradient else ({}, None)
    drawn: dict[str, list[np.ndarray]] = {"unguided": [], **{name: [] for name in (*WAYS, *passes, *steep)}}
    maps: dict[str, list[Map]] = {name: [] for name in WAYS}
    for request in spec.requests():
        store, own = Store(), []
        for name, other in passes.items():
            progress(name)
            drawn[name] += [np.asarray(p) for p in decode(model, of_the_pass(model, request, variant, other))]
        for name in ("unguided", *WAYS):
            progress(name)
            if own:
                store.get("maps").exchange(WAYS[name](own))
            latents = sample(model, request, FULL if name == "unguided" else variant, store=store)
            drawn[name] += [np.asarray(p) for p in decode(model, latents)]
            if name != "unguided":
                followed = store.get("maps").current
                own = own or followed
                maps[name] += followed
        for name, way in steep.items():
            progress(name)
            latents = steered(model, request, off_map(head, WAYS[way](own)))
            drawn[name] += [np.asarray(p) for p in decode(model, latents)]
    kind, own = maps["guided"][0].kind, [m.picture for m in maps["guided"]]
    with renderers.open_renderer(spec.size) as renderer:
        figures = judged(own, spec, geometry.MapJudge(renderer, kind))
        if kind == "depth":
            figures |= _angles(own, spec, renderer)
        else:
            figures["autoencoder"] = through_the_autoencoder(model, spec, renderer)
    if beside:
        figures |= agreement(own, maps_of(model, spec, variant, beside))
    return {
        "map": kind,
        "maps": figures,
        "pictures": _pictures(drawn, maps, judge, spec),
        "cost": cost(model, spec.requests()[0], variant),
    }


def first_of(model: LabModel, variant: Variant) -> Technique:
    """The technique of `variant` that draws a map, with its file."""
    settings = variant.completed(model.fitting).settings
    (first,) = (group for group in settings.active() if isinstance(group, Technique) and group.draws_first)
    return first


def head_in(model: LabModel, variant: Variant) -> Head:
    """The network of the file of `variant` that reads maps."""
    head = read_head(model.files.load(KIND, first_of(model, variant).file).tensors)
    if head is None:
        raise LabError("The file has no network that reads maps, of which there could be a gradient.")
    return head


def off_map(head: Head, maps: Sequence[Map]) -> Callable[[torch.Tensor], torch.Tensor]:
    """How far predicted latents ``[B, C, h, w]`` are from their maps, summed over places: ``[B]``."""

    def miss(clean: torch.Tensor) -> torch.Tensor:
        wanted = torch.stack([m.wanted(tuple(clean.shape[-2:])) for m in maps])
        return wanted[0].numel() * error(head(clean), wanted)

    return miss


def maps_of(model: LabModel, spec: MapsSpec, variant: Variant, file: str) -> list[np.ndarray]:
    """The maps that `variant` draws first with another file, uint8 (H, W, 3) each."""
    first = first_of(model, variant)
    other = ours(file, file, read_settings(variant.settings.flat() | {f"{first.name}.file": file}))
    out = []
    for request in spec.requests():
        store = Store()
        sample(model, replace(request, steps=1), other, store=store)
        out += [m.picture for m in store.get("maps").current]
    return out


def agreement(normals: list[np.ndarray], depths: list[np.ndarray]) -> dict:
    """Angle between drawn normals and those worked out from drawn depth, where both show something: of the same prompt
    and seed, and of others."""
    out = {}
    for name, other in (("agreement", depths), ("agreement_shuffled", [*depths[1:], depths[0]])):
        pairs = zip(normals, other, strict=True)
        out[name] = mean([
            geometry.angle(normals_of(n), normals_of_depth(d), geometry.outline(n, "normal") & geometry.outline(d))
            for n, d in pairs
        ])  # fmt: skip
    return out


def of_the_pass(model: LabModel, request: Request, variant: Variant, other: int = 0) -> torch.Tensor:
    """Latents of pictures that follow the pass of a map itself, not the map: by key mix, at every step, preset "Layout
    only" with that pass as recorded run (features and attention injected, as in Plug-and-Play, 2211.12572).

    Args:
        other: the map is that of the picture so much further on in the batch.
    """
    first = first_of(model, variant)
    file = model.files.load(KIND, first.file)
    follow = {full_key("source"): "recorded run"}
    following, recording = preset(LAYOUT, **follow), preset(LAYOUT, **follow, **{full_key("record"): True})
    out = []
    for image in range(len(request.seeds)):
        store, drawn = Store(), request.one((image + other) % len(request.seeds))
        with drawing(file, model.unet, model.decoder, model.prediction):
            sample(model, replace(drawn, cfg=first.map_cfg), recording, store=store)
        out.append(sample(model, request.one(image), following, store=store))
    return torch.cat(out)


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


def through_the_autoencoder(model: LabModel, spec: MapsSpec, renderer) -> dict[str, float | None]:
    """Angle in degrees between normals of renders and the same encoded and decoded: nearer no drawn map can be."""
    encoder, judge, angles = (
        load_encoder(ModelSpec(model.file, model.device)),
        geometry.MapJudge(renderer, "normal"),
        [],
    )
    for scene in spec.scenes():
        truth = judge.renders(scene)[0]
        values = torch.from_numpy(truth.copy()).permute(2, 0, 1)[None].to(model.device).float() / 127.5 - 1
        found = np.asarray(decode(model, encoder(values))[0])
        where = geometry.outline(truth, "normal")
        angles.append(geometry.angle(normals_of(found), normals_of(truth), where))
    return mean(angles)


def _angles(maps: list[np.ndarray], spec: MapsSpec, renderer) -> dict:
    """How far normals that are worked out from depth maps are from those of renders, of their own and other prompts."""
    scenes, out = spec.scenes(), {}
    for name, of in (("angle", scenes), ("angle_shuffled", [*scenes[1:], scenes[0]])):
        out[name] = mean([angular_error(m, s, renderer) for m, s in zip(maps, of, strict=True)])
    return out


def angular_error(picture: np.ndarray, scene: Scene, renderer) -> float:
    """Mean angle in degrees to the normals of the render of the same words whose outline is nearest, where both show
    something; nan where they have nothing in common. picture: a depth map uint8 (H, W, 3)."""
    mine, best = geometry.outline(picture), (-1.0, None, None)
    for index in range(geometry.RENDERS):
        drawn = renderer.render(layout.scene_of(scene.things, scene.count, scene.relation, seed=991, index=index))
        other = geometry.outline(depth_picture(drawn.inverse_depth, drawn.mask))
        share = geometry.overlap(mine, other)
        if share > best[0]:
            best = share, drawn.normals, mine & other
    _, truth, where = best
    return geometry.angle(normals_of_depth(picture), truth, where)


def _pictures(drawn: dict[str, list[np.ndarray]], maps: dict[str, list[Map]], judge: Judge, spec) -> dict:
    """For each way of drawing how right pictures are, and how far they cover each of the maps of `WAYS`."""
    outlines = {name: [_small(geometry.standing(m.picture, m.kind)) for m in found] for name, found in maps.items()}
    out = {}
    for name, pictures in drawn.items():
        verdicts, masks = judge.look(np.stack(pictures))
        out[name] = asdict(score(verdicts, spec.scenes())) | {
            f"covers_{key}": mean([geometry.overlap(a, b) for a, b in zip(masks, wanted, strict=True)])
            for key, wanted in outlines.items()
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
