"""The command line: a module per command (``bench speed``: `bench_speed`), which turns its options into one frozen
specification, hands that to another room, and prints and writes what comes back. `options` holds shared options.

May import: every other room. Nothing imports this one but ``python -m lib_attn.lab``.
"""
