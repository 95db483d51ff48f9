"""How far normals that are worked out from drawn depth maps are from those of renders."""

from __future__ import annotations

import numpy as np

from lib_attn.lab.judging import geometry
from lib_attn.learn.scenes import layout
from lib_attn.learn.scenes.guides import depth_picture
from lib_attn.learn.scenes.layout import Scene
from lib_attn.techniques.depth_guide.normals import normals_of_depth


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
