"""Drawing with moderngl on EGL, without a display."""

from __future__ import annotations

import numpy as np

from .layout import Scene
from .meshes import primitive
from .view import (
    EYE,
    NEAR,
    SHADOW,
    TARGET,
    Maps,
    MeshSource,
    RenderError,
    model_matrix,
    projection_matrix,
    shadow_matrix,
    view_matrix,
)

_VERTEX = """
#version 330
uniform mat4 clip; uniform mat4 view_model; uniform mat3 turn;
in vec3 position; in vec3 normal;
out vec3 world_normal; out float distance_;
void main() {
    world_normal = turn * normal;
    distance_ = -(view_model * vec4(position, 1.0)).z;
    gl_Position = clip * vec4(position, 1.0);
}
"""
_COLOUR = """
#version 330
uniform vec3 albedo; uniform vec3 light; uniform float ambient; uniform vec3 to_eye;
in vec3 world_normal; in float distance_;
out vec4 colour;
void main() {
    vec3 n = normalize(world_normal);
    if (dot(n, to_eye) < 0.0) n = -n;
    float lit = clamp(dot(n, light), 0.0, 1.0);
    colour = vec4(clamp(albedo * (ambient + (1.12 - ambient) * lit), 0.0, 1.0), 1.0);
}
"""
_GEOMETRY = """
#version 330
uniform mat3 view_turn; uniform float number;
in vec3 world_normal; in float distance_;
layout(location = 0) out vec4 geometry; layout(location = 1) out vec4 which;
void main() {
    vec3 n = normalize(view_turn * world_normal);
    if (n.z < 0.0) n = -n;
    geometry = vec4(n, distance_);
    which = vec4(number, 0.0, 0.0, 1.0);
}
"""


def _bytes(matrix: np.ndarray) -> bytes:
    return np.ascontiguousarray(matrix.T, dtype=np.float32).tobytes()


class GLRenderer:
    """moderngl on EGL. `size` is the edge of the square picture. Close it, or use it in a with statement."""

    name = "moderngl"

    def __init__(self, size: int, source: MeshSource = primitive):
        try:
            import moderngl

            self.context = moderngl.create_standalone_context(backend="egl")
        except ImportError:
            raise RenderError("Drawing with OpenGL needs the package moderngl: pip install moderngl.") from None
        except Exception as error:  # the driver's own words differ from machine to machine
            raise RenderError(f"OpenGL on EGL does not run here ({error}); on Debian install libegl1, "
                              "libegl-mesa0 and libgl1-mesa-dri.") from None
        self.gl, self.size, self.source = moderngl, size, source
        shape = (size, size)
        ctx = self.context
        self.colour_program = ctx.program(vertex_shader=_VERTEX, fragment_shader=_COLOUR)
        self.geometry_program = ctx.program(vertex_shader=_VERTEX, fragment_shader=_GEOMETRY)
        self.smooth = ctx.framebuffer([ctx.renderbuffer(shape, 4, samples=4)],
                                      ctx.depth_renderbuffer(shape, samples=4))
        self.plain = ctx.framebuffer([ctx.renderbuffer(shape, 4)])
        self.exact = ctx.framebuffer(
            [ctx.renderbuffer(shape, 4, dtype="f4"), ctx.renderbuffer(shape, 1, dtype="f4")],
            ctx.depth_renderbuffer(shape))
        self._arrays: dict[str, tuple] = {}
        self.view, self.projection = view_matrix(), projection_matrix()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        self.context.release()

    def _arrays_of(self, name: str):
        if name not in self._arrays:
            mesh = self.source(name)
            buffer = self.context.buffer(np.hstack([mesh.positions, mesh.normals]).astype(np.float32).tobytes())
            self._arrays[name] = tuple(
                self.context.vertex_array(program, [(buffer, "3f 3f", "position", "normal")], skip_errors=True)
                for program in (self.colour_program, self.geometry_program))
        return self._arrays[name]

    @staticmethod
    def _set(program, **values) -> None:
        for key, value in values.items():
            # The compiler drops uniforms a stage does not read.
            if key in program:
                if isinstance(value, bytes):
                    program[key].write(value)
                else:
                    program[key].value = value

    def _draw(self, which: int, placed, world: np.ndarray, **uniforms) -> None:
        program = (self.colour_program, self.geometry_program)[which]
        turn = world[:3, :3] / placed.scale
        self._set(program, clip=_bytes(self.projection @ self.view @ world), view_model=_bytes(self.view @ world),
                  turn=_bytes(turn), **uniforms)
        self._arrays_of(placed.mesh)[which].render()

    def _colours(self, scene: Scene) -> np.ndarray:
        ctx, gl = self.context, self.gl
        self.smooth.use()
        self.smooth.clear(*scene.backdrop, 1.0)
        flatten = shadow_matrix(scene.light)
        dark = tuple(v * SHADOW for v in scene.backdrop)
        to_eye = tuple((EYE - TARGET) / np.linalg.norm(EYE - TARGET))
        ctx.disable(gl.DEPTH_TEST)
        for placed in scene.placed:
            self._draw(0, placed, flatten @ model_matrix(placed), albedo=dark, light=(0.0, 0.0, 0.0),
                       ambient=1.0, to_eye=to_eye)
        ctx.enable(gl.DEPTH_TEST)
        for placed in scene.placed:
            self._draw(0, placed, model_matrix(placed), albedo=placed.albedo, light=scene.light,
                       ambient=scene.ambient, to_eye=to_eye)
        ctx.copy_framebuffer(self.plain, self.smooth)
        raw = np.frombuffer(self.plain.read(components=3, alignment=1), np.uint8)
        return raw.reshape(self.size, self.size, 3)[::-1].copy()

    def _geometry(self, scene: Scene):
        self.context.enable(self.gl.DEPTH_TEST)
        self.exact.use()
        self.exact.clear()
        for number, placed in enumerate(scene.placed, start=1):
            self._draw(1, placed, model_matrix(placed), view_turn=_bytes(self.view[:3, :3]), number=float(number))
        shape = (self.size, self.size)
        geometry = np.frombuffer(self.exact.read(components=4, attachment=0, dtype="f4"), np.float32)
        which = np.frombuffer(self.exact.read(components=1, attachment=1, dtype="f4"), np.float32)
        return geometry.reshape(*shape, 4)[::-1], np.rint(which.reshape(shape)[::-1]).astype(np.uint8)

    def render(self, scene: Scene, geometry: bool = True) -> Maps:
        """Draw one scene; without `geometry` only rgb and mask are filled, the other maps are 0."""
        rgb = self._colours(scene)
        if not geometry:
            blank = np.zeros((self.size, self.size), np.float32)
            return Maps(rgb, blank, np.zeros((*blank.shape, 3), np.float32), blank.astype(np.uint8))
        packed, mask = self._geometry(scene)
        seen = mask > 0
        inverse = np.where(seen, NEAR / np.maximum(packed[..., 3], NEAR), 0.0).astype(np.float32)
        normals = np.where(seen[..., None], packed[..., :3], 0.0).astype(np.float32)
        return Maps(rgb, inverse, normals, mask)
