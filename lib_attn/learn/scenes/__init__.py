"""Rendered scenes with exact captions: RGB, inverse depth, view normals, mask, attributes.

`vocabulary` names things, `meshes` makes or loads them, `layout` decides what stands where from a seed, `render` and
`raycast` draw it without a display (`renderers` says which), `shards` writes and streams the result.
May import: nothing else of `lib_attn`.
"""
