"""The tokenizer's folder with the text model's configuration beside it, as the exported model needs it."""

from __future__ import annotations

from pathlib import Path

from lib_attn.lab.drawing import tokenizer
from lib_attn.lab.drawing.tokenizer import TOKENS

from .models import TextConfig


def write_folder(folder: Path, text: TextConfig) -> Path:
    """Write vocab.json, merges.txt and the configurations transformers needs to load the tokenizer and the
    empty text model from this folder."""
    return tokenizer.write_folder(folder, text.params())


def load(folder: Path, text: TextConfig | None = None):
    """transformers' CLIPTokenizer from a folder, which is written first when it is not there."""
    return tokenizer.load(folder, (text or TextConfig()).params())


def encode(tokenizer, captions: list[str]):
    """Captions -> int64 token ids (B, 77), padded with the end token as Stable Diffusion does."""
    out = tokenizer(captions, truncation=True, max_length=TOKENS, padding="max_length", return_tensors="pt")
    return out["input_ids"]
