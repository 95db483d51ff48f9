"""What every room of the lab shares: the error, sizes, the machine, distances, progress, tables, result files.

May import: nothing of the lab, nothing of `lib_attn`.
"""
