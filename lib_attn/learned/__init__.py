"""Files that a technique has learned from pictures of a model: safetensors, named by the user, found in known folders.

`header` reads what a file says of itself, `folders` knows where files are looked for, `files` loads and writes them.
docs/learned-files.md says what is in one and what is refused.
"""
