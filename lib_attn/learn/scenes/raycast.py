"""Ray casting with trimesh (and embree where installed): the same maps as the OpenGL renderer, no driver."""

from __future__ import annotations

import math

import numpy as np

from . import render
from . import texture as textures
from .layout import Scene
from .meshes import primitive


class RayRenderer:
    """Draws like `render.GLRenderer`; edges are smoothed with 2 x 2 rays a pixel. Raises RenderError."""

    name = "trimesh"

    def __init__(self, size: int, source: render.MeshSource = primitive):
        try:
            import trimesh
        except ImportError:
            raise render.RenderError(
                "Drawing without OpenGL needs the package trimesh: pip install trimesh embreex."
            ) from None
        try:
            import embreex  # noqa: F401
        except ImportError:
            try:
                import rtree  # noqa: F401
            except ImportError:
                raise render.RenderError(
                    "Ray casting needs the package embreex (or, slowly, rtree): pip install embreex."
                ) from None
        self.trimesh, self.size, self.source = trimesh, size, source
        self.view = render.view_matrix()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        """Nothing is held."""

    def _directions(self, side: int) -> np.ndarray:
        """World directions (side * side, 3) through pixel centres, each one unit long along the view axis."""
        reach = math.tan(render.FIELD_OF_VIEW / 2)
        line = ((np.arange(side) + 0.5) / side * 2 - 1) * reach
        x, y = np.meshgrid(line, -line)
        return np.stack([x, y, -np.ones_like(x)], -1).reshape(-1, 3) @ self.view[:3, :3]

    def _world(self, scene: Scene):
        """All objects as one mesh -> (trimesh, corner normals (F, 3, 3), object of each face from 0)."""
        corners, normals, owner = [], [], []
        for number, placed in enumerate(scene.placed):
            mesh, matrix = self.source(placed.mesh), render.model_matrix(placed)
            corners.append(mesh.positions @ matrix[:3, :3].T + matrix[:3, 3])
            normals.append(mesh.normals @ (matrix[:3, :3] / placed.scale).T)
            owner.append(np.full(mesh.faces, number))
        points = np.concatenate(corners)
        solid = self.trimesh.Trimesh(points, np.arange(len(points)).reshape(-1, 3), process=False)
        return solid, np.concatenate(normals).reshape(-1, 3, 3), np.concatenate(owner)

    def _cast(self, solid, normals: np.ndarray, directions: np.ndarray):
        """First hits -> (ray numbers, faces, distances along the view axis, smooth world normals)."""
        origins = np.broadcast_to(render.EYE, directions.shape)
        faces, rays, places = solid.ray.intersects_id(origins, directions, multiple_hits=False, return_locations=True)
        weights = self.trimesh.triangles.points_to_barycentric(solid.triangles[faces], places)
        n = np.einsum("ij,ijk->ik", weights, normals[faces])
        n /= np.maximum(np.linalg.norm(n, axis=1, keepdims=True), 1e-9)
        depth = -(places @ self.view[2, :3] + self.view[2, 3])
        return rays, faces, depth, n

    def _colours(self, scene: Scene, solid, normals, owner) -> np.ndarray:
        side = 2 * self.size
        directions = self._directions(side)
        picture = np.tile(np.array(scene.backdrop), (side * side, 1))
        down = directions[:, 1] < -1e-6
        ground = render.EYE + directions[down] * (-render.EYE[1] / directions[down, 1])[:, None]
        if scene.floor:
            near = ground[:, 2] >= scene.floor.edge
            down[np.flatnonzero(down)[~near]] = False
            ground = ground[near]
            picture[down] = textures.colours(scene.floor.texture, textures.FLOOR, scene.floor.albedo, ground, ground)
        towards = np.broadcast_to(np.asarray(scene.light), ground.shape)
        shaded = np.flatnonzero(down)[solid.ray.intersects_any(ground + 1e-4 * towards, towards)]
        picture[shaded] *= render.SHADOW
        rays, faces, depth, n = self._cast(solid, normals, directions)
        to_eye = (render.EYE - render.TARGET) / np.linalg.norm(render.EYE - render.TARGET)
        shining, n = n, np.where((n @ to_eye < 0)[:, None], -n, n)
        albedo = np.array([p.albedo for p in scene.placed])[owner[faces]]
        places = render.EYE + directions[rays] * depth[:, None]
        for number, placed in enumerate(scene.placed):
            mine = owner[faces] == number
            if placed.texture and mine.any():
                back = np.linalg.inv(render.model_matrix(placed))
                spots, facing = places[mine] @ back[:3, :3].T + back[:3, 3], shining[mine] @ back[:3, :3].T
                albedo[mine] = textures.colours(
                    placed.texture, textures.mapping_of(placed.mesh), placed.albedo, spots, facing
                )
        picture[rays] = render.shade(albedo, n, scene.light, scene.ambient)
        picture = picture.reshape(self.size, 2, self.size, 2, 3).mean((1, 3))
        return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)

    def render(self, scene: Scene, geometry: bool = True) -> render.Maps:
        """Draw one scene; without `geometry` only rgb is filled, the other maps are 0."""
        solid, normals, owner = self._world(scene)
        rgb = self._colours(scene, solid, normals, owner)
        shape = (self.size, self.size)
        inverse, mask = np.zeros(shape, np.float32), np.zeros(shape, np.uint8)
        facing = np.zeros((*shape, 3), np.float32)
        if geometry:
            rays, faces, depth, n = self._cast(solid, normals, self._directions(self.size))
            n = n @ self.view[:3, :3].T
            n = np.where(n[:, 2:] < 0, -n, n)
            inverse.reshape(-1)[rays] = render.NEAR / np.maximum(depth, render.NEAR)
            mask.reshape(-1)[rays] = owner[faces] + 1
            facing.reshape(-1, 3)[rays] = n
        return render.Maps(rgb, inverse, facing, mask)
