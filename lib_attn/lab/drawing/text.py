"""The text encoders of Stable Diffusion 1.x and 2.x, both run by transformers' ``CLIPTextModel``.

OpenCLIP's text tower (SD 2.x) is the same network under other names, so it is renamed instead of loaded by another
package. Tokens are laid out as stable-diffusion-webui does: chunks of 75 between a start and an end token. Prompts
are taken as they are: parentheses carry no weight here.
"""

from __future__ import annotations

import importlib.util
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from lib_attn.lab.drawing import tokenizer
from lib_attn.lab.shared.errors import LabError

CHUNK = 75
START, END = 49406, 49407


class TextEncoder(nn.Module):
    """Prompts -> context for the U-Net.

    Args:
        model: a ``CLIPTextModel``. pad: token behind the end (CLIP repeats the end token, OpenCLIP has 0).
        skip: how many of the last layers to leave out; the final norm is applied in any case where `norm` is set.
    """

    def __init__(self, model: nn.Module, pad: int, skip: int = 0, norm: bool = True):
        super().__init__()
        self.model, self.pad, self.skip, self.norm = model, pad, skip, norm
        self._tokenizer = None

    def forward(self, prompts: Sequence[str]) -> torch.Tensor:
        """``[B, 77 * chunks, width]``; shorter prompts are filled up with empty chunks."""
        chunks = [self._chunks(prompt) for prompt in prompts]
        most = max(map(len, chunks))
        chunks = [c + [[]] * (most - len(c)) for c in chunks]
        rows = torch.tensor([[self._row(chunk) for chunk in c] for c in chunks], device=self.model.device)
        return torch.cat([self._encode(rows[:, i]) for i in range(most)], 1)

    def words(self, prompts: Sequence[str]) -> tuple[tuple[int, ...], ...]:
        """For each prompt the columns of its context that are words and their end; without begin and padding."""
        return tuple(
            tuple(
                number * (CHUNK + 2) + 1 + i
                for number, c in enumerate(self._chunks(prompt))
                if c
                for i in range(len(c) + 1)
            )
            for prompt in prompts
        )

    def _encode(self, tokens: torch.Tensor) -> torch.Tensor:
        if not self.skip:
            return self.model(input_ids=tokens).last_hidden_state
        hidden = self.model(input_ids=tokens, output_hidden_states=True).hidden_states[-1 - self.skip]
        return self.model.text_model.final_layer_norm(hidden) if self.norm else hidden

    def _chunks(self, prompt: str) -> list[list[int]]:
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer()
        ids = self._tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"]
        return [ids[i : i + CHUNK] for i in range(0, len(ids), CHUNK)] or [[]]

    def _row(self, chunk: list[int]) -> list[int]:
        return [START, *chunk, END] + [self.pad] * (CHUNK - len(chunk))


def load_tokenizer():
    """transformers' ``CLIPTokenizer`` on CLIP's own word list.

    Raises:
        LabError: when no installed package has that list.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            return tokenizer.load(Path(folder))
        except FileNotFoundError as error:
            raise LabError(str(error)) from None


def clip_encoder(weights: Mapping[str, torch.Tensor], params: Mapping, beside: Path) -> TextEncoder:
    """`TextEncoder` from the weights below ``cond_stage_model.`` of an SD 1.x checkpoint.

    Args:
        params: the yaml's parameters of ``FrozenCLIPEmbedder``. beside: the checkpoint's file; a folder that
            `params` names is looked for beside it and in the folders above.
    """
    found = {k.removeprefix("transformer."): v for k, v in weights.items() if k.startswith("transformer.")}
    if found and not any(k.startswith("text_model.") for k in found):
        found = {f"text_model.{k}": v for k, v in found.items()}
    found = {k: v for k, v in found.items() if not k.endswith("position_ids")}
    config = _folder_config(str(params.get("version", "")), beside)
    heads, activation = config.get("num_attention_heads"), config.get("hidden_act", "quick_gelu")
    skip = 0
    if params.get("layer") == "hidden":
        layers = _layers(found)
        index = int(params.get("layer_idx") or layers)
        skip = -1 - index if index < 0 else layers - index
    return TextEncoder(_clip_model(found, heads, activation), END, skip, norm=False)


def open_clip_encoder(weights: Mapping[str, torch.Tensor], params: Mapping) -> TextEncoder:
    """`TextEncoder` from an SD 2.x checkpoint. params: the yaml's parameters of ``FrozenOpenCLIPEmbedder``."""
    found: dict[str, torch.Tensor] = {}
    plain = {
        "model.token_embedding.weight": "text_model.embeddings.token_embedding.weight",
        "model.positional_embedding": "text_model.embeddings.position_embedding.weight",
        "model.ln_final.weight": "text_model.final_layer_norm.weight",
        "model.ln_final.bias": "text_model.final_layer_norm.bias",
    }
    inner = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj",
             "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}  # fmt: skip
    for key, value in weights.items():
        if key in plain:
            found[plain[key]] = value
        elif key.startswith("model.transformer.resblocks."):
            number, _, rest = key.removeprefix("model.transformer.resblocks.").partition(".")
            target = f"text_model.encoder.layers.{number}."
            name, _, kind = rest.rpartition(".")
            if name in inner:
                found[f"{target}{inner[name]}.{kind}"] = value
            elif rest.startswith("attn.in_proj_"):
                # OpenCLIP keeps the three projections in one matrix.
                for part, projection in zip(value.chunk(3), ("q_proj", "k_proj", "v_proj"), strict=True):
                    found[f"{target}self_attn.{projection}.{rest.removeprefix('attn.in_proj_')}"] = part
    heads, activation = _open_clip_config(str(params.get("arch", "ViT-H-14")))
    return TextEncoder(_clip_model(found, heads, activation), 0, 1 if params.get("layer") == "penultimate" else 0)


def _clip_model(weights: Mapping[str, torch.Tensor], heads: int | None, activation: str) -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel

    try:
        vocabulary, width = weights["text_model.embeddings.token_embedding.weight"].shape
        config = CLIPTextConfig(
            vocab_size=vocabulary, hidden_size=width, num_hidden_layers=_layers(weights),
            intermediate_size=weights["text_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
            num_attention_heads=heads or max(1, width // 64),
            max_position_embeddings=weights["text_model.embeddings.position_embedding.weight"].shape[0],
            hidden_act=activation, bos_token_id=START, eos_token_id=END, pad_token_id=END,
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            model = CLIPTextModel(config)
        missing, _ = model.load_state_dict({k: v.float() for k, v in weights.items()}, strict=False)
    except (KeyError, RuntimeError, ValueError) as error:
        raise LabError(f"The checkpoint's text encoder has an unknown layout: {_first_line(error)}") from None
    missing = [key for key in missing if not key.endswith("position_ids")]
    if missing:
        raise LabError(f"The checkpoint's text encoder is incomplete: {missing[0]} is missing.")
    return model.eval().requires_grad_(False)


def _layers(weights: Mapping[str, torch.Tensor]) -> int:
    return len({k.split(".")[3] for k in weights if k.startswith("text_model.encoder.layers.")})


def _folder_config(version: str, beside: Path) -> dict:
    """config.json of a folder the yaml names (relative to the checkpoint or any folder above it); else empty."""
    if not version or ".." in Path(version).parts:
        return {}
    for parent in beside.resolve().parents:
        file = parent / version / "config.json"
        if file.is_file():
            try:
                return json.loads(file.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                raise LabError(f"The text encoder's configuration {file} cannot be read.") from None
    return {}


def _open_clip_config(arch: str) -> tuple[int | None, str]:
    """Heads and activation of an OpenCLIP architecture, from the package's list when it is installed."""
    spec = importlib.util.find_spec("open_clip")
    for place in (spec.submodule_search_locations or []) if spec else []:
        files = {file.stem: file for file in (Path(place) / "model_configs").glob("*.json")}
        if arch in files:
            config = json.loads(files[arch].read_text(encoding="utf-8"))
            return config["text_cfg"].get("heads"), "quick_gelu" if config.get("quick_gelu") else "gelu"
    return None, "gelu"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200]
