"""The renderer that runs here: OpenGL on EGL, or else ray casting."""

from __future__ import annotations

from .meshes import primitive
from .raycast import RayRenderer
from .render import GLRenderer, MeshSource, RenderError


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
