"""CLIP's tokenizer, built from the word list that an installed package ships. Nothing is downloaded.

`open_clip` and `clip` both carry `bpe_simple_vocab_16e6.txt.gz` (OpenAI CLIP, MIT).
"""

from __future__ import annotations

import gzip
import importlib.util
import json
from pathlib import Path
from typing import Any

#: Tokens that CLIP knows, and tokens of one text.
VOCABULARY, TOKENS = 49408, 77

_WORD_LIST = "bpe_simple_vocab_16e6.txt.gz"
_START, _END = "<|startoftext|>", "<|endoftext|>"


def word_list() -> Path:
    """Path of CLIP's merge list. Raises FileNotFoundError with what to install."""
    for package in ("open_clip", "clip"):
        spec = importlib.util.find_spec(package)
        for place in (spec.submodule_search_locations or []) if spec else []:
            if (path := Path(place) / _WORD_LIST).exists():
                return path
    raise FileNotFoundError("CLIP's word list was not found; it comes with: pip install open_clip_torch.")


def _byte_letters() -> list[str]:
    """The printable stand-ins for the 256 bytes, in CLIP's order (GPT-2's byte-level BPE, Radford 2019)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(b) for b in plain]
    extra = 256 - len(plain)
    return letters + [chr(256 + i) for i in range(extra)]


def write_folder(folder: Path, config: dict[str, Any] | None = None) -> Path:
    """Write the files from which transformers loads the tokenizer.

    Args:
        config: parameters of the text model that belongs to it, written as ``config.json``.
    """
    lines = gzip.decompress(word_list().read_bytes()).decode("utf-8").split("\n")
    merges = lines[1 : VOCABULARY - 512 - 2 + 1]
    letters = _byte_letters()
    words = letters + [v + "</w>" for v in letters] + ["".join(m.split()) for m in merges] + [_START, _END]
    folder.mkdir(parents=True, exist_ok=True)

    def dump(name: str, value: dict) -> None:
        (folder / name).write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")

    special = {"unk_token": _END, "bos_token": _START, "eos_token": _END, "pad_token": _END}
    dump("vocab.json", {word: i for i, word in enumerate(words)})
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    dump("special_tokens_map.json", special)
    kind = {"do_lower_case": True, "model_max_length": TOKENS, "errors": "replace", "add_prefix_space": False}
    dump("tokenizer_config.json", {**special, **kind, "tokenizer_class": "CLIPTokenizer"})
    if config is not None:
        dump("config.json", {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model", **config})
    return folder


def load(folder: Path, config: dict[str, Any] | None = None):
    """transformers' CLIPTokenizer from a folder, which is written first when it is not there (see `write_folder`)."""
    from transformers import CLIPTokenizer

    if not (folder / "vocab.json").exists():
        write_folder(folder, config)
    # Only for decoding, which nobody does here; unsaid, transformers warns of a coming default.
    return CLIPTokenizer.from_pretrained(str(folder), clean_up_tokenization_spaces=True)
