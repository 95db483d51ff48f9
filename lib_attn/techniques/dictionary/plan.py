"""How many atoms a layer gets, and whether clusters are worth their time there. No tensors here."""

from __future__ import annotations

from dataclasses import dataclass

from lib_attn.techniques.near_sighted.plan import LEAST_TOKENS, WORTHWHILE, Plan

LEAST_ATOMS = 4
NO_FILE = "Needs a file: learn one, or choose one that is there."


@dataclass(frozen=True)
class ClusterPlan:
    """atoms: number of clusters. cost: multiply-adds against full attention's, 1 for as many. tokens: of the map."""

    atoms: int
    cost: float
    tokens: int

    @property
    def worthwhile(self) -> bool:
        """Whether this level is treated when the choice is left to us."""
        return self.tokens >= LEAST_TOKENS and self.cost <= WORTHWHILE


def plan_clusters(h: int, w: int, settings, *, depth: int = 0) -> ClusterPlan:
    """For a map of h x w tokens at U-Net depth `depth` (0: full latent), with `Dictionary` settings."""
    tokens = h * w
    if settings.mode in ("full", "static"):
        return ClusterPlan(0, 1.0 if settings.mode == "full" else 0.0, tokens)
    atoms = min(tokens, max(LEAST_ATOMS, round(settings.atoms * 2.0 ** (-depth * settings.depth_scaling))))
    keys = float(atoms)
    if settings.mode == "global":
        tile = tile_plan(h, w, settings, depth=depth)
        keys += tile.keys
    # Matching points and atoms takes half of what attention to as many keys takes.
    matching = 0.5 * atoms * settings.iterations / settings.keep
    return ClusterPlan(atoms, (keys + matching) / tokens, tokens)


def tile_plan(h: int, w: int, settings, *, depth: int = 0, shift: tuple[float, float] = (0.0, 0.0)) -> Plan:
    """Tiles of `global` on a map; their borders wander by half a tile, as near-sighted's do."""
    tile = max(8, round(settings.tile * 2.0**-depth))
    reach = 0.5 * tile if tile < max(h, w) else 0.0
    return Plan(h, w, tile, tile, 0, offset=(int(shift[0] * reach), int(shift[1] * reach)))
