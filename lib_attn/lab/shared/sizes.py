"""Sizes of pictures as they are typed, checked."""

from __future__ import annotations

from lib_attn.lab.shared.errors import LabError

LOW, HIGH = 64, 8192  # pixels of a picture's side


def parse_sizes(text: str) -> list[tuple[int, int]]:
    """``512,768x512`` (width x height) as a list of (height, width).

    Raises:
        LabError: when a size is no size, not a multiple of 8, or out of range.
    """
    sizes = []
    for item in (part.strip() for part in text.split(",") if part.strip()):
        width, _, height = item.lower().partition("x")
        try:
            sizes.append(check_size(int(height or width), int(width)))
        except LabError:
            raise
        except ValueError:
            raise LabError(f"'{item}' is no size: write 512 or 768x512.") from None
    if not sizes:
        raise LabError("No size is given: write 512 or 768x512.")
    return sizes


def check_size(height: int, width: int) -> tuple[int, int]:
    """(height, width) when a picture can have that size.

    Raises:
        LabError: when not.
    """
    if height % 8 or width % 8 or not (LOW <= height <= HIGH and LOW <= width <= HIGH):
        raise LabError(f"{width}x{height} is no size a picture can have: both are multiples of 8 from {LOW} to {HIGH}.")
    return height, width
