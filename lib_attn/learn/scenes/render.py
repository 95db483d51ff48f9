"""Draw scenes without a display: moderngl on EGL where it runs, ray casting with trimesh otherwise.

Both give the same maps in the same frame (OpenGL view space: x right, y up, z towards the viewer), so a
test can hold one against the other. Camera: perspective, 35 degrees, looking down slightly on the origin.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from . import texture as textures
from .layout import Placed, Scene
from .meshes import Mesh, primitive

FIELD_OF_VIEW = math.radians(35.0)
EYE = np.array([0.0, 3.1, 6.4])
TARGET = np.array([0.0, 0.62, 0.0])
NEAR, FAR = 1.0, 60.0
SHADOW = 0.72

MeshSource = Callable[[str], Mesh]


class RenderError(RuntimeError):
    """No renderer can run here; the message says what to install."""


@dataclass(frozen=True)
class Maps:
    """One rendered view of H x W pixels, first row on top.

    rgb: uint8 (H, W, 3), display values. inverse_depth: float32 (H, W), NEAR / distance along the view
    axis, 0 where there is no object. normals: float32 (H, W, 3), unit vectors facing the viewer, 0 where
    there is no object. mask: uint8 (H, W), 0 for the background, k for the k-th placed object.
    """

    rgb: np.ndarray
    inverse_depth: np.ndarray
    normals: np.ndarray
    mask: np.ndarray


def view_matrix() -> np.ndarray:
    back = EYE - TARGET
    back /= np.linalg.norm(back)
    right = np.cross([0.0, 1.0, 0.0], back)
    right /= np.linalg.norm(right)
    up = np.cross(back, right)
    matrix = np.eye(4)
    matrix[:3, :3] = [right, up, back]
    matrix[:3, 3] = -matrix[:3, :3] @ EYE
    return matrix


def projection_matrix() -> np.ndarray:
    f = 1.0 / math.tan(FIELD_OF_VIEW / 2)
    matrix = np.zeros((4, 4))
    matrix[0, 0] = matrix[1, 1] = f
    matrix[2, 2] = (FAR + NEAR) / (NEAR - FAR)
    matrix[2, 3] = 2 * FAR * NEAR / (NEAR - FAR)
    matrix[3, 2] = -1.0
    return matrix


def model_matrix(placed) -> np.ndarray:
    c, s = math.cos(placed.yaw) * placed.scale, math.sin(placed.yaw) * placed.scale
    return np.array([[c, 0, s, placed.x], [0, placed.scale, 0, 0], [-s, 0, c, placed.z], [0, 0, 0, 1.0]])


def shadow_matrix(light) -> np.ndarray:
    """Flattens the world onto y = 0 along the light: x' = x - y * lx / ly, and the same for z."""
    lx, ly, lz = light
    return np.array([[1, -lx / ly, 0, 0], [0, 0, 0, 1e-3], [0, -lz / ly, 1, 0], [0, 0, 0, 1.0]])


def floor_matrix(edge: float) -> np.ndarray:
    """Lays the cube's top, which is 1.6 wide, on y = 0 from z = `edge` to behind the viewer."""
    depth = EYE[2] + 1 - edge
    return np.array([[40.0, 0, 0, 0], [0, 0, 0, 0], [0, 0, depth / 1.6, edge + depth / 2], [0, 0, 0, 1.0]])


def shade(albedo, normals, light, ambient) -> np.ndarray:
    """Lambert shading in display space; albedo (..., 3), world normals (..., 3) -> (..., 3) in 0..1."""
    lit = np.clip(normals @ np.asarray(light), 0, 1)[..., None]
    return np.clip(albedo * (ambient + (1.12 - ambient) * lit), 0, 1)


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
_DRESSED_VERTEX = """
#version 400
uniform mat4 clip; uniform mat4 place; uniform mat3 turn;
in vec3 position; in vec3 normal;
sample out vec3 world_normal; sample out vec3 spot; sample out vec3 facing;
void main() {
    world_normal = turn * normal;
    facing = normal;
    vec4 spot_ = place * vec4(position, 1.0);
    spot = spot_.xyz / spot_.w;
    gl_Position = clip * vec4(position, 1.0);
}
"""
_DRESSED = (
    """
#version 400
uniform vec3 albedo; uniform vec3 second; uniform vec3 light; uniform float ambient; uniform vec3 to_eye;
sample in vec3 world_normal; sample in vec3 spot; sample in vec3 facing;
out vec4 colour;
"""
    + textures.GLSL
    + """
void main() {
    vec3 n = normalize(world_normal);
    if (dot(n, to_eye) < 0.0) n = -n;
    float lit = clamp(dot(n, light), 0.0, 1.0);
    vec3 base = mix(albedo, second, pattern_of(spot, facing));
    colour = vec4(clamp(base * (ambient + (1.12 - ambient) * lit), 0.0, 1.0), 1.0);
}
"""
)
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


#: The cube whose top becomes the floor.
_PLATE = Placed("cube", (0.0, 0.0, 0.0), 1.0, 0.0, 0.0, 0.0)


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
            raise RenderError(
                f"OpenGL on EGL does not run here ({error}); on Debian install libegl1, "
                "libegl-mesa0 and libgl1-mesa-dri."
            ) from None
        self.gl, self.size, self.source = moderngl, size, source
        shape = (size, size)
        ctx = self.context
        self.colour_program = ctx.program(vertex_shader=_VERTEX, fragment_shader=_COLOUR)
        self.geometry_program = ctx.program(vertex_shader=_VERTEX, fragment_shader=_GEOMETRY)
        self.smooth = ctx.framebuffer([ctx.renderbuffer(shape, 4, samples=4)], ctx.depth_renderbuffer(shape, samples=4))
        self.plain = ctx.framebuffer([ctx.renderbuffer(shape, 4)])
        self.exact = ctx.framebuffer(
            [ctx.renderbuffer(shape, 4, dtype="f4"), ctx.renderbuffer(shape, 1, dtype="f4")],
            ctx.depth_renderbuffer(shape),
        )
        self.dressed_program = ctx.program(vertex_shader=_DRESSED_VERTEX, fragment_shader=_DRESSED)
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
                for program in (self.colour_program, self.geometry_program, self.dressed_program)
            )
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
        program = (self.colour_program, self.geometry_program, self.dressed_program)[which]
        turn = world[:3, :3] / placed.scale
        self._set(
            program,
            clip=_bytes(self.projection @ self.view @ world),
            view_model=_bytes(self.view @ world),
            turn=_bytes(turn),
            **uniforms,
        )
        self._arrays_of(placed.mesh)[which].render()

    def _dressed(self, placed, world: np.ndarray, texture, mapping: int, place: np.ndarray, **uniforms) -> None:
        """Draw with a pattern. place: from the mesh's frame to the one the pattern is laid out in."""
        self._draw(
            2,
            placed,
            world,
            place=_bytes(place),
            second=texture.second,
            mapping=mapping,
            pattern=textures.PATTERNS.index(texture.pattern),
            repeats=texture.repeats,
            phase=texture.phase,
            turn_by=texture.turn,
            **uniforms,
        )

    def _ground(self, scene: Scene, world: np.ndarray, placed, dim: float, to_eye) -> None:
        """Draw something flat on the floor, in the floor's colours times `dim`."""
        floor = scene.floor
        texture = replace(floor.texture, second=tuple(v * dim for v in floor.texture.second))
        self._dressed(
            placed,
            world,
            texture,
            textures.FLOOR,
            world,
            albedo=tuple(v * dim for v in floor.albedo),
            light=(0.0, 0.0, 0.0),
            ambient=1.0,
            to_eye=to_eye,
        )

    def _colours(self, scene: Scene) -> np.ndarray:
        ctx, gl = self.context, self.gl
        self.smooth.use()
        self.smooth.clear(*scene.backdrop, 1.0)
        flatten = shadow_matrix(scene.light)
        dark = tuple(v * SHADOW for v in scene.backdrop)
        to_eye = tuple((EYE - TARGET) / np.linalg.norm(EYE - TARGET))
        ctx.disable(gl.DEPTH_TEST)
        if scene.floor:
            self._ground(scene, floor_matrix(scene.floor.edge), _PLATE, 1.0, to_eye)
        for placed in scene.placed:
            world = flatten @ model_matrix(placed)
            if scene.floor:
                self._ground(scene, world, placed, SHADOW, to_eye)
            else:
                self._draw(0, placed, world, albedo=dark, light=(0.0, 0.0, 0.0), ambient=1.0, to_eye=to_eye)
        ctx.enable(gl.DEPTH_TEST)
        for placed in scene.placed:
            lit = {"albedo": placed.albedo, "light": scene.light, "ambient": scene.ambient, "to_eye": to_eye}
            if placed.texture:
                self._dressed(
                    placed, model_matrix(placed), placed.texture, textures.mapping_of(placed.mesh), np.eye(4), **lit
                )
            else:
                self._draw(0, placed, model_matrix(placed), **lit)
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
