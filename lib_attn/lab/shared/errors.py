"""The one error that the command line turns into one sentence."""

from __future__ import annotations


class LabError(ValueError):
    """Something the user can put right; its text is one clear sentence. The command line ends with exit code 2."""
