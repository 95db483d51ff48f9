"""Pictures with infotext, written and read as stable-diffusion-webui does, and labelled grids."""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_attn.lab.drawing.sampling import SAMPLERS, Request
from lib_attn.lab.shared.errors import LabError
from lib_attn.settings import Settings, show

_PAIR = re.compile(r'\s*([\w ._/-]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')


def infotext(request: Request, index: int, settings: Settings, model: str) -> str:
    """Generation parameters of image `index` in the webui's words and order."""
    sampler = SAMPLERS[request.sampler]
    prompt = request.prompts[index if len(request.prompts) > 1 else 0]
    pairs = {
        "Steps": request.steps,
        "Sampler": request.sampler,
        "Schedule type": sampler.schedule,
        "CFG scale": show(float(request.cfg)),
        "Seed": request.seeds[index],
        "Size": f"{request.width}x{request.height}",
        "Model": model,
        "RNG": "CPU",
        **settings.to_infotext(),
        "Version": "Attention Lab",
    }
    lines = [prompt, f"Negative prompt: {request.negative}" if request.negative else "", pairs_text(pairs)]
    return "\n".join(line for line in lines if line)


def pairs_text(pairs: dict) -> str:
    """``a: 1, b: "x, y"``; values with a comma, colon or line break are quoted as JSON, as the webui does."""
    texts = {key: str(value) for key, value in pairs.items()}
    quoted = {k: json.dumps(v, ensure_ascii=False) if re.search(r"[,\n:]", v) else v for k, v in texts.items()}
    return ", ".join(f"{key}: {value}" for key, value in quoted.items())


def parse_infotext(text: str) -> dict[str, str]:
    """The named values of an infotext, with ``Prompt`` and ``Negative prompt``; made here or by the webui."""
    *lines, last = text.strip().split("\n") or [""]
    if len(_PAIR.findall(last)) < 3:
        lines, last = [*lines, last], ""
    found: dict[str, str] = {}
    prompt, negative, current = [], [], None
    current = prompt
    for line in lines:
        if line.startswith("Negative prompt:"):
            current, line = negative, line[len("Negative prompt:") :].strip()
        current.append(line)
    found["Prompt"], found["Negative prompt"] = "\n".join(prompt).strip(), "\n".join(negative).strip()
    for key, value in _PAIR.findall(last):
        try:
            found[key.strip()] = json.loads(value) if value.startswith('"') else value.strip()
        except ValueError:
            found[key.strip()] = value.strip()
    return found


def save(picture, path: Path, parameters: str = "") -> Path:
    """Write a PNG with the infotext in its ``parameters`` chunk, or a JPEG where `path` ends so; whole or not at all.

    Raises:
        LabError: when it cannot be written.
    """
    from PIL import PngImagePlugin

    info = PngImagePlugin.PngInfo()
    if parameters:
        info.add_text("parameters", parameters)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                if path.suffix.lower() in (".jpg", ".jpeg"):
                    picture.save(file, format="JPEG", quality=88)
                else:
                    picture.save(file, format="PNG", pnginfo=info)
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise LabError(f"{path} cannot be written: {error.strerror or error}.") from None
    return path


def read_parameters(path: Path) -> str:
    """The infotext of a PNG, empty when it has none.

    Raises:
        LabError: when it is no picture.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            return str(picture.info.get("parameters", ""))
    except (OSError, UnidentifiedImageError, SyntaxError):
        raise LabError(f"{path} is no picture that can be read.") from None


def grid(rows: Sequence[Sequence], top: Sequence[str], left: Sequence[str], captions: Sequence[Sequence[str]]):
    """One picture of all pictures.

    Args:
        rows: PIL pictures of one size. top: a heading per column. left: a heading per row, above it.
        captions: one line below each picture.
    """
    from PIL import Image, ImageDraw

    width, height = rows[0][0].size
    scale = max(11, width // 24)
    font = _font(scale)
    gap, line = scale // 2, math.ceil(scale * 1.6)
    total = (len(rows[0]) * (width + gap) + gap, 2 * line + len(rows) * (height + 2 * line + gap))
    sheet = Image.new("RGB", total, "white")
    draw = ImageDraw.Draw(sheet)

    def write(x: int, y: int, text: str, room: int, colour: str = "black") -> None:
        draw.text((x, y), _fitting(draw, text, font, room), fill=colour, font=font)

    for column, text in enumerate(top):
        write(gap + column * (width + gap), gap, text, width)
    for number, (pictures, heading, lines) in enumerate(zip(rows, left, captions, strict=True)):
        y = line + gap + number * (height + 2 * line + gap)
        write(gap, y, heading, total[0] - 2 * gap, "#555555")
        for column, (picture, caption) in enumerate(zip(pictures, lines, strict=True)):
            x = gap + column * (width + gap)
            sheet.paste(picture, (x, y + line))
            write(x, y + line + height + gap // 3, caption, width, "#333333")
    return sheet


@dataclass(frozen=True)
class Pair:
    """The same seeds without and with something. left, right: PIL pictures. captions: above each side."""

    heading: str
    text: str
    left: Sequence[Any]
    right: Sequence[Any]
    captions: tuple[str, str]


def pair_sheet(pair: Pair, cell: int):
    """One picture of a `Pair`: heading, one line of text, and both sides beside each other.

    Args:
        cell: pixels of a picture where four are shown in a square; a single one is shown as large as that square.
    """
    from PIL import Image, ImageDraw

    gap, scale = max(4, cell // 32), max(10, cell // 16)
    side = 2 * cell + gap
    line = math.ceil(1.5 * scale)
    top = 3 * line + gap
    sheet = Image.new("RGB", (2 * side + 5 * gap, top + side + gap), "white")
    draw = ImageDraw.Draw(sheet)
    large, small = _font(round(1.2 * scale)), _font(scale)
    room = sheet.width - 2 * gap
    draw.text((gap, gap), _fitting(draw, pair.heading, large, room), fill="black", font=large)
    draw.text((gap, gap + line), _fitting(draw, pair.text, small, room), fill="#555555", font=small)
    for number, (pictures, caption) in enumerate(zip((pair.left, pair.right), pair.captions, strict=True)):
        x = gap + number * (side + 3 * gap)
        draw.text((x, 2 * line + gap), _fitting(draw, caption, small, side), fill="black", font=small)
        columns = math.ceil(math.sqrt(len(pictures)))
        inner = (side - (columns - 1) * gap) // columns
        for index, picture in enumerate(pictures):
            row, column = divmod(index, columns)
            place = (x + column * (inner + gap), top + row * (inner + gap))
            sheet.paste(picture.resize((inner, inner), Image.LANCZOS), place)
    return sheet


def stack(sheets: Sequence[Any]):
    """Pictures of one width below each other."""
    from PIL import Image

    whole = Image.new("RGB", (sheets[0].width, sum(sheet.height for sheet in sheets)), "white")
    y = 0
    for sheet in sheets:
        whole.paste(sheet, (0, y))
        y += sheet.height
    return whole


def _fitting(draw, text: str, font, room: int) -> str:
    """As much of `text` as `room` pixels hold."""
    while text and draw.textlength(text, font=font) > room:
        text = text[:-4].rstrip() + "..." if len(text) > 4 else ""
    return text


def _font(size: int):
    """A scalable font: the one that comes with matplotlib."""
    from PIL import ImageFont

    try:
        import matplotlib

        return ImageFont.truetype(os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)
    except (ImportError, OSError):
        raise LabError("A labelled grid needs the package matplotlib, for its font.") from None
