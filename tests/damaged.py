"""Files that are opened and then turn out not to be in order."""

import base64
import io
import struct

from PIL import Image


def jpeg() -> str:
    """A picture in base64 that Pillow opens and cannot turn upright: its Exif names a part of itself that is none."""
    tags = [(0x0112, 3, 1, struct.pack("<HH", 6, 0)), (0x8769, 2, 4, b"abc\0")]
    parts = [struct.pack("<HHI", tag, kind, count) + value for tag, kind, count, value in tags]
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(parts) + struct.pack("<I", 0)
    file = io.BytesIO()
    Image.radial_gradient("L").convert("RGB").save(file, "JPEG", exif=exif)
    return base64.b64encode(file.getvalue()).decode()
