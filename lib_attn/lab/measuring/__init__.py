"""Measuring on the lab's models: time, memory, arithmetic, distances, what a judge sees. Rows come out, no text.

Each file has its row and its specification as frozen dataclasses; `choice` says which variants are compared.
May import: `lib_attn.lab.shared`, `drawing` and `judging`, and of `lib_attn` what those may import.
"""
