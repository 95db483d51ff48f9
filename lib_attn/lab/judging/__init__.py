"""Saying what a picture shows: the judge (a small network), its training, prompts, and figures of its verdicts.

It is handed pictures as arrays and draws none itself.
May import: `lib_attn.lab.shared` and `lib_attn.learn.scenes`, from which it has words, scenes and renders.
"""
