"""A map of other proportions than its picture is cropped: of it the middle is used, as large as it can be."""

from __future__ import annotations

#: A side that is longer by no more than this share is squeezed instead: sizes are rounded.
SLIGHT = 0.02
#: What is said of it, before and after drawing.
TALLER = "The map is taller than the picture: {above} % of it are cut off at the top, and as much at the bottom."
WIDER = "The map is wider than the picture: {beside} % of it are cut off on the left, and as much on the right."


def middle(size: tuple[int, int], like: tuple[int, int]) -> tuple[slice, slice]:
    """Of a grid of `size` the rows and columns that have the proportions of `like`; both ``(height, width)``."""
    (height, width), (high, wide) = size, like
    rows, columns = round(width * high / wide), round(height * wide / high)
    rows = height if rows >= height * (1 - SLIGHT) else max(1, rows)
    columns = width if columns >= width * (1 - SLIGHT) else max(1, columns)
    top, left = (height - rows) // 2, (width - columns) // 2
    return slice(top, top + rows), slice(left, left + columns)


def left_out(size: tuple[int, int], like: tuple[int, int]) -> tuple[int, int]:
    """How many per cent of a grid of `size` `middle` leaves out at its top as at its bottom, and at its left as at its
    right: one of both is 0."""
    return tuple(
        round(50 * (1 - (kept.stop - kept.start) / whole)) for kept, whole in zip(middle(size, like), size, strict=True)
    )
