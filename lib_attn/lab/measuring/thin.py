"""What thinner queries and keys cost and save: the error of the attention's output for every kind of maps at equal
rank, how far pictures move and what they show, and the time of a full-size U-Net."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from lib_attn.lab.drawing.checkpoint import LabModel
from lib_attn.lab.drawing.sampling import Request, decode, sample
from lib_attn.lab.drawing.variants import FULL, Variant, setting, watched
from lib_attn.lab.judging.judge import Judge
from lib_attn.lab.judging.metrics import score
from lib_attn.lab.judging.prompts import pair_prompts, single_prompts
from lib_attn.lab.shared.distances import mean_and_error, relative_l2
from lib_attn.lab.shared.errors import LabError
from lib_attn.lab.shared.progress import Progress, silent
from lib_attn.learn.capture import QUERIES, Capture
from lib_attn.learn.scenes.layout import Scene
from lib_attn.techniques.base import Context, Runtime
from lib_attn.techniques.thin_qk.maps import moments_of
from lib_attn.techniques.thin_qk.maths import MAPS, thin
from lib_attn.unet.families import find_layers
from lib_attn.unet.layers import layer_keys

SHARES = (0.75, 0.5, 0.25)  # of a head's channels
Maps = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class ErrorRow:
    """Relative L2 error of the attention's output with one kind of maps, the mean over layers and pictures.

    share: of the channels of a head that is kept. error: standard error over pictures.
    """

    name: str
    share: float
    l2: float
    error: float
    images: int


@dataclass(frozen=True)
class PictureRow:
    """Pictures of one setting beside those of full attention.

    l2, error: relative L2 of the final latents. both, relation: as in `lib_attn.lab.judging.metrics.Score`.
    """

    name: str
    l2: float
    error: float
    both: float
    relation: float
    images: int
    settings: dict | None = None


def kinds_of_maps(capture: Capture, layers: dict[str, Any]) -> dict[str, Callable[[str, int], Maps]]:
    """Functions of a layer's key and a stretch of sampling time, by the name of what they give.

    Args:
        capture: of other pictures, with second moments by stretch. layers: by key.
    """
    weights = {key: moments_of(layer, None, key) for key, layer in layers.items()}

    def seen(form: str, keys: str, apart: bool = False) -> Callable[[str, int], Maps]:
        made: dict[tuple, Maps] = {}

        def give(key: str, stretch: int) -> Maps:
            place = key, stretch if apart else None
            if place not in made:
                made[place] = MAPS[form](*(capture.moment(key, name, place[1]) for name in ("q", keys)))
            return made[place]

        return give

    def blind(form: str) -> Callable[[str, int], Maps]:
        made = {key: MAPS[form](weights[key]["q"], weights[key]["spread"]) for key in layers}
        return lambda key, stretch: made[key]

    return {
        "pair, a set for each quarter of the steps": seen("pair", "spread", apart=True),
        "pair": seen("pair", "spread"),
        "pair of whole keys (KQ-SVD)": seen("pair", "k"),
        "shared": seen("shared", "spread"),
        "pair from the weights": blind("pair"),
        "shared from the weights": blind("shared"),
    }


class Errors:
    """Squared errors of the output of self-attention, over the calls of one picture; see `observer`."""

    def __init__(self, kinds: dict[str, Callable[[str, int], Maps]], keys: dict[int, str], stretches: int):
        self._kinds, self._keys, self._stretches = kinds, keys, stretches
        self._sums: dict[tuple, float] = {}

    def observer(self) -> Runtime:
        return _Watcher(self)

    def take(self, call: Any) -> None:
        """Compare all kinds of maps on some queries of one call."""
        key = self._keys[call.layer.index]
        stretch = min(int(call.moment.time * self._stretches), self._stretches - 1)
        q, k, v = (t.float() for t in call.project())
        q = q[:, :: max(1, q.shape[1] // QUERIES)]
        to_out = call.layer.family.projections(call.module)[3][0].weight.float()
        full = _attend(q, k, v, call.scale, to_out)
        self._add(key, "", 0.0, full)
        for name, give in self._kinds.items():
            maps = give(key, stretch)
            for share in SHARES:
                rank = round(share * q.shape[-1])
                q_map, k_map = (m[..., :rank] for m in maps)
                out = _attend(thin(q, q_map), thin(k, k_map), v, call.scale, to_out)
                self._add(key, name, share, out - full)

    def _add(self, key: str, name: str, share: float, value: torch.Tensor) -> None:
        place = key, name, share
        self._sums[place] = self._sums.get(place, 0.0) + float(value.square().sum())

    def relative(self, name: str, share: float) -> float:
        """Relative error, the mean over layers."""
        keys = self._keys.values()
        return float(np.mean([(self._sums[k, name, share] / self._sums[k, "", 0.0]) ** 0.5 for k in keys]))


class _Watcher(Runtime):
    def __init__(self, errors: Errors):
        super().__init__(None, Context())
        self._errors = errors

    def wants_self(self, layer):
        return True

    def edits(self, call):
        self._errors.take(call)
        return False


def _attend(q, k, v, scale: float, to_out: torch.Tensor) -> torch.Tensor:
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2).flatten(-2) @ to_out.mT


def measure_errors(
    model: LabModel, learned_from: Sequence[Request], requests: Sequence[Request], progress: Progress = silent
) -> list[ErrorRow]:
    """Learn second moments from some pictures and compare maps on others."""
    layers = dict(zip(layer_keys(find_layers(model.unet)), find_layers(model.unet), strict=True))
    capture = Capture(list(layers.values()))
    for request in learned_from:
        progress("learning")
        sample(model, request, watched(capture.observer))
    kinds, found = kinds_of_maps(capture, layers), []
    for request in requests:
        progress("comparing")
        errors = Errors(kinds, {layer.index: key for key, layer in layers.items()}, capture.stretches)
        sample(model, request, watched(errors.observer))
        found.append(errors)
    rows = []
    for name in kinds:
        for share in SHARES:
            mean, error = mean_and_error([errors.relative(name, share) for errors in found])
            rows.append(ErrorRow(name, share, mean, error, len(found)))
    return rows


def picture_cases(file: str) -> list[Variant]:
    """Settings to draw with. Every number of channels is allowed, so that each keeps what it says and no more."""

    def case(name: str, text: str) -> Variant:
        always = f"thin_qk.when=always; thin_qk.blocks=all; thin_qk.round_to=1; {text}"
        return replace(setting("", always), name=name, label=name)

    def kept(energy: float) -> str:
        return f"thin_qk.energy={energy}"

    of_file = f"thin_qk.file={file}"
    cases = [case(f"{e:g} kept", f"{of_file}; {kept(e)}") for e in (0.99, 0.95, 0.9)]
    cases += [
        case(f"{e:g} kept, values whole", f"{of_file}; {kept(e)}; thin_qk.values=false") for e in (0.99, 0.95, 0.9)
    ]
    cases.append(case("0.95 kept, from the weights", kept(0.95)))
    cases.append(case("half the work", f"{of_file}; thin_qk.choose=budget; thin_qk.budget=0.5; thin_qk.round_to=8"))
    return cases


def scenes_of(count: int) -> list[Scene]:
    """Prompts to judge by: single objects and pairs in turn."""
    half = (count + 1) // 2
    both = zip(single_prompts(half), pair_prompts(half), strict=True)
    return [scene for two in both for scene in two][:count]


def measure_pictures(
    model: LabModel,
    judge: Judge,
    cases: Sequence[Variant],
    scenes: Sequence[Scene],
    request: Request,
    progress: Progress = silent,
    keep: Callable[[list[PictureRow]], None] = lambda rows: None,
) -> list[PictureRow]:
    """Draw `scenes` as `request` says, in full and with each case.

    Args:
        keep: takes the rows so far after each case.

    Raises:
        LabError: when a case does not do what it is to do.
    """  # fmt: skip
    asked = [
        replace(request, prompts=(scene.caption,), seeds=(request.seeds[0] + i,)) for i, scene in enumerate(scenes)
    ]
    baseline, rows = [], []
    for case in (FULL, *cases):
        latents, said = [], []
        for one in asked:
            progress(case.name)
            latents.append(sample(model, one, case, say=said.append))
        if said:
            raise LabError(said[0])
        baseline = baseline or latents
        pictures = np.stack([np.asarray(decode(model, x)[0]) for x in latents])
        seen = score(judge.look(pictures)[0], scenes)
        mean, error = mean_and_error([relative_l2(a, b) for a, b in zip(latents, baseline, strict=True)])
        rows.append(PictureRow(case.name, mean, error, seen.both, seen.relation, len(asked), case.changed))
        keep(rows)
    return rows


def time_cases() -> list[Variant]:
    """Settings to time on random weights, where energy says nothing: a budget, alone and inside near-sighted tiles."""
    thin_on = "thin_qk.when=always; thin_qk.choose=budget; thin_qk.budget=0.8"
    texts = {
        "thin QK, 80 % of the work": thin_on,
        "near-sighted": "tile=16",
        "near-sighted and thin QK": f"tile=16; {thin_on}; thin_qk.blocks=d0",
    }
    return [replace(setting("", text), name=name, label=name) for name, text in texts.items()]
