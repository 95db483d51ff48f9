"""What the host knows about the negative prompt of an evaluation, for techniques that handle it themselves."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modules import prompt_parser, script_callbacks, shared

from lib_attn.unet.flight import CHUNK
from lib_attn.unet.neighbours import OWN, looks_at_arguments, package_of
from lib_attn.unet.rows import POSITIVE, Row
from lib_attn.webui import host

STOCK = "modules.sd_samplers_cfg_denoiser"
#: Callbacks that get both predictions, and those that get what was made of them and may have kept the parts.
AFTER_THE_MODEL = ("callbacks_cfg_denoised", "callbacks_cfg_after_cfg")
BUILT_IN = "extensions-builtin"


def told(p: Any, params: Any, words: Words | None) -> dict[str, Any]:
    """Keywords of `lib_attn.attach.Attachment.begin_step` from the host's ``CFGDenoiserParams``.

    Everything that cannot be found out is None; techniques then make do without. `words` is None when nobody asks for
    the text.
    """
    denoiser = params.denoiser
    cfg = (getattr(denoiser.sampler, "sampler_extra_args", None) or {}).get("cond_scale")
    if cfg is not None:
        cfg = float(cfg) * float(getattr(denoiser, "cond_scale_miltiplier", 1.0))
    found = {"cfg": cfg, "reads": lambda: why_read(denoiser), "editions": editions(denoiser)}
    found["positive_only"] = leaves_negatives_out(denoiser, params.sigma)
    found["adaptive"] = host.steps_by_itself(denoiser)
    if words is not None:
        text = getattr(params, "text_uncond", None)
        found["negative"] = text.get("crossattn") if isinstance(text, dict) else text
        found["words"] = words.of(p, denoiser)
    return found


def leaves_negatives_out(denoiser: Any, sigma: Any) -> bool:
    """Whether the host's own options (Negative Guidance minimum sigma, Skip Early CFG) drop the negatives now.

    It decides after it has announced the evaluation, so the decision is foretold here as v1.10.1 makes it.

    Args:
        sigma: tensor of the evaluation's rows.
    """
    opts = shared.opts
    early, every_step = getattr(opts, "skip_early_cond", 0.0), getattr(opts, "s_min_uncond_all", False)
    if early and denoiser.step / (denoiser.total_steps or denoiser.steps or 1) <= early:
        return True
    least = (getattr(denoiser.sampler, "sampler_extra_args", None) or {}).get("s_min_uncond") or 0.0
    if not least or host.is_edit(denoiser) or not (every_step or denoiser.step % 2):
        return False
    return bool(sigma[0] < least)


def editions(denoiser: Any) -> tuple[tuple[int, ...], ...] | None:
    """For each image the entries of its prompts' schedules that this evaluation uses; None when they are not known."""
    extra = getattr(denoiser.sampler, "sampler_extra_args", None) or {}
    images, negatives = getattr(extra.get("cond"), "batch", None), extra.get("uncond")
    if not images or not negatives or len(images) != len(negatives):
        return None
    step = denoiser.step
    return tuple(
        (*(_at(part.schedules, step) for part in parts), _at(negative, step))
        for parts, negative in zip(images, negatives, strict=True)
    )


def _at(schedule: Sequence[Any], step: int) -> int:
    """The host's choice among the entries of a prompt's schedule."""
    return next((i for i, entry in enumerate(schedule) if step <= entry.end_at_step), 0)


def why_read(denoiser: Any) -> str:
    """Who may use the negative's prediction beyond the host's ordinary combination, as a sentence without its end.

    To be asked as late as possible: extensions register callbacks and replace methods up to the evaluation itself.

    Returns:
        an empty text when nobody does.
    """
    combine = getattr(type(denoiser), "combine_denoised", None)
    replaced = "combine_denoised" in vars(denoiser) or (combine is not None and combine.__module__ != STOCK)
    callbacks = getattr(script_callbacks, "callback_map", {})
    if replaced or any(_is_foreign(callback) for name in AFTER_THE_MODEL for callback in callbacks.get(name, ())):
        return "another extension may use the negative's prediction too"
    if getattr(denoiser, "need_last_noise_uncond", False):
        return "the sampler uses the negative's prediction too"
    return ""


def _is_foreign(callback: Any) -> bool:
    """Whether a registered callback may read, and is neither ours nor of an extension that comes with the host."""
    own = package_of(callback.callback) == OWN or BUILT_IN in Path(callback.script).parts
    return not own and looks_at_arguments(callback.callback)


def texts(denoiser: Any, rows: Sequence[Row] | None) -> list[Any] | None:
    """The text ``[T, C]`` of each of `rows` in this evaluation, from where the host takes it; None when unclear."""
    extra = getattr(denoiser.sampler, "sampler_extra_args", None) or {}
    images, negatives = getattr(extra.get("cond"), "batch", None), extra.get("uncond")
    if not rows or not images or not negatives or len(images) != len(negatives):
        return None
    found = []
    for row in rows:
        schedule = images[row.image][row.part].schedules if row.sign == POSITIVE else negatives[row.image]
        if not schedule:
            return None
        text = schedule[_at(schedule, denoiser.step)].cond
        found.append(text.get("crossattn") if isinstance(text, dict) else text)
    return found if all(getattr(text, "ndim", 0) == 2 for text in found) else None


class Words:
    """Finds the columns of a batch's negative texts that are words. Prompts are taken apart once, not in every step."""

    def __init__(self) -> None:
        self._key: Any = None
        self._texts: list = []
        self._columns: dict[str, tuple[int, ...]] = {}

    def of(self, p: Any, denoiser: Any) -> tuple[tuple[int, ...], ...] | None:
        """For each image the columns of this evaluation, prompt editing followed; None when it is unclear."""
        hires = bool(getattr(p, "is_hr_pass", False))
        prompts = getattr(p, "hr_negative_prompts" if hires else "negative_prompts", None)
        schedules = (getattr(denoiser.sampler, "sampler_extra_args", None) or {}).get("uncond")
        tokenizer = find_tokenizer(shared.sd_model)
        if not prompts or tokenizer is None or not schedules or len(prompts) != len(schedules):
            return None
        steps = getattr(p, "firstpass_steps", None) or p.steps
        more = (denoiser.total_steps or denoiser.steps) if hires else None
        key = weakref.ref(tokenizer), tuple(prompts), steps, more, shared.opts.use_old_scheduling
        if key != self._key:
            self._texts = prompt_parser.get_learned_conditioning_prompt_schedules(list(prompts), *key[2:])
            self._key, self._columns = key, {}
        found = []
        for schedule, text in zip(schedules, self._texts, strict=True):
            if len(schedule) != len(text):
                return None
            line = text[_at(schedule, denoiser.step)][1]
            if line not in self._columns:
                self._columns[line] = columns(tokenizer, line)
            found.append(self._columns[line])
        return tuple(found)


def find_tokenizer(model: Any) -> Any:
    """The host's text encoder that can split a prompt into chunks of tokens, or None."""
    embedder = getattr(model, "cond_stage_model", None)
    candidates: Sequence[Any] = [embedder, *(getattr(embedder, "embedders", None) or ())]
    conditioner = getattr(model, "conditioner", None)
    candidates = [*candidates, *(getattr(conditioner, "embedders", None) or ())]
    return next((c for c in candidates if callable(getattr(c, "tokenize_line", None))), None)


def columns(tokenizer: Any, line: str) -> tuple[int, ...]:
    """Columns of the encoded `line` that hold its tokens and each chunk's end; none for an empty line."""
    chunks, _ = tokenizer.tokenize_line(line)
    out: list[int] = []
    for number, chunk in enumerate(chunks):
        inner = chunk.tokens[1:]
        # The first end token closes the words, those behind it are padding. Begin draws attention to itself without
        # meaning anything; the end sums the words up.
        length = inner.index(tokenizer.id_end) if tokenizer.id_end in inner else len(inner)
        if length:
            out += [number * CHUNK + 1 + i for i in range(length + 1)]
    return tuple(out)
