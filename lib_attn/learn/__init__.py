"""Offline work: `scenes` to learn from, and the models and files learned from them (`reference_model`).

`scenes` imports nothing else of `lib_attn`, so that the lab's judge can use it; what learns stands beside the lab's
commands and may import what lies below those.
"""
