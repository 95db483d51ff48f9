"""Draw scenes without a display: OpenGL on EGL where it runs, ray casting with trimesh otherwise.

Both give the same maps in the same frame, so a test can hold one against the other.
"""

from __future__ import annotations

from .meshes import primitive
from .opengl import GLRenderer
from .raycast import RayRenderer
from .view import MeshSource, RenderError


def open_renderer(size: int, which: str = "auto", source: MeshSource = primitive):
    """The renderer asked for; "auto" is moderngl where it runs, else ray casting. Raises RenderError."""
    if which == "trimesh":
        return RayRenderer(size, source)
    try:
        return GLRenderer(size, source)
    except RenderError:
        if which == "moderngl":
            raise
        return RayRenderer(size, source)
