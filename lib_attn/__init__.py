"""Attention Lab: attention techniques for Stable Diffusion U-Nets that already exist."""

__version__ = "0.1.0"
