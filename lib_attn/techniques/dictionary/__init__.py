"""Attention against a dictionary of atoms instead of all tokens, and a style bank learned from pictures."""
