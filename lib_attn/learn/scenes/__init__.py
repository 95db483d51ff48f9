"""Rendered scenes with exact captions: RGB, inverse depth, view normals, mask, attributes.

`vocabulary` names things, `meshes` makes or loads them, `layout` decides what stands where from a seed,
`render` draws it without a display, `shards` writes and streams the result.
"""
