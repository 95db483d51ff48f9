"""Read what the host hands to the script's hooks: the panel's values, or what an API client sent.

Two forms, both plain JSON:

- one dictionary of named fields first in the list: ``[{"near_sighted": {"enabled": true, "tile": 32}}]``;
- values by position in the frozen order of `lib_attn.settings.positional_params`; a short list is filled up with
  defaults. The page itself sends this form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lib_attn.settings import Settings, positional_params

MAX_MESSAGES = 8


def read_args(args: Sequence[Any]) -> tuple[Settings, list[str]]:
    """Settings from a hook's arguments, and one sentence for each value that was refused or clamped. Never raises."""
    if args and isinstance(args[0], Mapping):
        settings, messages = Settings.read(args[0])
    else:
        params = positional_params()
        settings, messages = Settings.read({p.key: value for p, value in zip(params, args)})  # noqa: B905
        if len(args) > len(params):
            surplus = len(args) - len(params)
            messages.append(f"Attention Lab takes {len(params)} values at most: {surplus} are left out.")
    if len(messages) > MAX_MESSAGES:
        messages = [*messages[:MAX_MESSAGES], f"… and {len(messages) - MAX_MESSAGES} more values were not understood."]
    return settings, messages
