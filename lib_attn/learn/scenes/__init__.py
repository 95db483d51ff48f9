"""Rendered scenes with exact captions: RGB, inverse depth, view normals, mask, attributes.

`vocabulary` names things, `meshes` makes or loads them, `layout` decides what stands where from a seed, `view` says how
it is looked at, `render` draws it without a display (`opengl` or `raycast`), `shards` writes and streams the result.
May import: nothing else of `lib_attn`.
"""
