"""Malformed learned files, made from a good one: every kind of fault by itself, and many more drawn at random.

Each case is (what is wrong, the file's bytes); none of them may be loaded.
"""

import copy
import itertools
import json
import random

import torch
from safetensors.torch import save

KIND = "thin_qk"
TENSORS = {
    "IN01.0/q": torch.linspace(-1, 1, 24).view(2, 3, 4), "IN01.0/k": torch.ones(2, 3, 4, dtype=torch.float16),
    "OUT02.0/q": torch.zeros(5, dtype=torch.bfloat16), "ranks": torch.arange(4),
}  # fmt: skip
METADATA = {
    "kind": '"thin_qk"', "version": "1", "family": '"other"', "layers": '{"IN01.0": 32, "OUT02.0": 32}',
    "checkpoint": '["name", "0123456789"]', "figures": '{"kept": 0.5}', "licence": '"CC0-1.0"',
}  # fmt: skip
FLOATS = {"IN01.0/q": 4, "IN01.0/k": 2, "OUT02.0/q": 2}
#: Not a number, infinity and minus infinity, by bytes of a float: F32; F16 and BF16 alike are all ones in the exponent.
NOT_FINITE = {4: ["0000c07f", "0000807f", "000080ff"], 2: ["ff7f", "ffff"]}


def good() -> bytes:
    return save(TENSORS, METADATA)


def parts(data=None):
    """(header, tensors' bytes) of a file."""
    data = good() if data is None else data
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join(header, body, length=None) -> bytes:
    """A file with this header: an object, or the text as it is to stand."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + body


def _headers():
    """Faults of the header as a whole."""
    header, body = parts()
    text = json.dumps(header).encode()
    for length in (0, 1, len(text) - 1, len(text) + len(body) + 1, 4 << 20, (4 << 20) + 1, 1 << 31, 1 << 63, 2**64 - 1):
        yield f"header of {length} bytes", join(text, body, length)
    yield "empty", b""
    yield "zeros", bytes(64)
    yield "no JSON", join(b"x" * len(text), body)
    yield "not UTF-8", join(text.replace(b"ranks", b"r\xff\xfeks"), body)
    yield "half a JSON", join(text[:-1], body)
    yield "two JSONs", join(text + text, body)
    for other in (b"[]", b"null", b"12", b'"text"', b"true", b"{}", b"NaN", b"[" * 100000, b'{"a":' * 50000):
        yield f"header {other[:8]}", join(other, body if other != b"{}" else b"")
    yield "a header too long", join(text + b" " * (4 << 20), body)
    yield (
        "too many tensors",
        join({f"t{i}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for i in range(20002)}, b""),
    )
    for name, value in header.items():
        twice = b"{" + json.dumps(name).encode() + b": " + json.dumps(value).encode() + b", " + text[1:]
        yield f"{name} twice", join(twice, body)
    yield "dtype twice", join(text.replace(b'"dtype": "I64"', b'"dtype": "I64", "dtype": "I64"'), body)
    yield "kind twice", join(text.replace(b'"kind":', b'"kind": "\\"dictionary\\"", "kind":'), body)


def _tensors():
    """Faults of what the header says of one tensor."""
    header, body = parts()
    for name in (n for n in header if n != "__metadata__"):
        begin, end = header[name]["data_offsets"]
        changes = [
            *(("dtype", v) for v in ("F8_E4M3", "F128", "f32", "", None, 4, ["F32"])),
            *(("shape", v) for v in (None, "2", {}, [-1], [1.5], [True], ["2"], [1 << 40], [10**400], [1] * 9, [7])),
            *(("data_offsets", v) for v in (
                None, [], [begin], [begin, end, end], [end, begin - 1], [begin, end + 8], [begin + 1, end + 1],
                [-8, end], [begin, 1 << 60], [float(begin), float(end)], [str(begin), str(end)], {"begin": begin},
            )),
        ]  # fmt: skip
        for key, value in changes:
            changed = copy.deepcopy(header)
            changed[name][key] = value
            yield f"{name}: {key} {str(value)[:20]}", join(changed, body)
        for key in ("dtype", "shape", "data_offsets"):
            changed = copy.deepcopy(header)
            del changed[name][key]
            yield f"{name}: no {key}", join(changed, body)
        for value in (None, [], "text", 3, {}, header[name] | {"more": 1}):
            yield f"{name}: {str(value)[:20]}", join(header | {name: value}, body)
        for other in ("", "n" * 201, "line\nbreak", "nul\0"):
            changed = {(other if n == name else n): v for n, v in header.items()}
            yield f"a tensor called {other[:8]!r}", join(changed, body)
    first, second = "IN01.0/k", "OUT02.0/q"
    lap = copy.deepcopy(header)
    lap[second]["data_offsets"] = [lap[first]["data_offsets"][0], lap[first]["data_offsets"][0] + 10]
    yield "two tensors in one place", join(lap, body)
    yield "a tensor too few", join({n: v for n, v in header.items() if n != first}, body)


def _metadata():
    """Faults of what the file says of itself."""
    header, body = parts()

    def told(**changes):
        metadata = {k: v for k, v in (METADATA | changes).items() if v is not None}
        return join(header | {"__metadata__": metadata}, body)

    for value in (None, [], "text", 3, {"kind": 3}, {"kind": None}, {"kind": {"a": "b"}}):
        yield f"metadata {value}", join(header | {"__metadata__": value}, body)
    yield "no metadata", join({n: v for n, v in header.items() if n != "__metadata__"}, body)
    for kind in (None, '"dictionary"', '"Thin_qk"', '""', "1", "null", "[]", "thin_qk", '"../thin_qk"'):
        yield f"kind {kind}", told(kind=kind)
    for version in (None, "0", "2", "999", "1.0", '"1"', "true", "null", "[1]", "-1", "x"):
        yield f"version {version}", told(version=version)
    for family in (None, '"sd3"', '""', "1", "null", "[]", "sd1"):
        yield f"family {family}", told(family=family)
    for layers in (None, "[]", "null", '"all"', '{"IN01.0": "32"}', '{"IN01.0": 0}', '{"IN01.0": -1}',
                   '{"IN01.0": 1.5}', '{"IN01.0": true}', '{"IN01.0": 3, "IN01.0": 3}', '{"IN01.0": {}}'):  # fmt: skip
        yield f"layers {layers}", told(layers=layers)
    for figures in ('{"kept": NaN}', '{"kept": Infinity}', '{"kept": -Infinity}', '{"kept": 1e999}', "{", "[" * 100000):
        yield f"figures {figures[:20]}", told(figures=figures)
    for extra in ("nothing JSON", '{"a": 1, "a": 2}', "NaN"):
        yield f"a text more: {extra}", told(more=extra)


def _numbers():
    """Numbers that are not finite, at the first, a middle and the last place of each tensor."""
    header, body = parts()
    for name, size in FLOATS.items():
        begin, end = header[name]["data_offsets"]
        middle = begin + (end - begin) // size // 2 * size
        for at, value in itertools.product((begin, middle, end - size), NOT_FINITE[size]):
            changed = bytearray(body)
            changed[at : at + size] = bytes.fromhex(value)
            yield f"{name} at {at}: {value}", join(header, bytes(changed))


def _lengths():
    """Cut off and prolonged."""
    data = good()
    for length in (1, 7, 8, 9, 100, len(data) // 2, len(data) - 8, len(data) - 1):
        yield f"cut off at {length}", data[:length]
    for more in (b"\0", b"x" * 8, data):
        yield f"{len(more)} bytes more", data + more


def _random(count, seed=1):
    """Faults drawn at random, each of which no file survives."""
    draw, data = random.Random(seed), good()
    header, body = parts()
    names = [n for n in header if n != "__metadata__"]
    for number in range(count):
        changed, name = copy.deepcopy(header), draw.choice(names)
        place = changed[name]
        what = draw.choice(["cut", "more", "length", "shift", "shape", "noise", "stretch", "delete", "number"])
        if what == "cut":
            made = data[: draw.randrange(len(data))]
        elif what == "more":
            made = data + draw.randbytes(draw.randrange(1, 4096))
        elif what == "length":
            length = draw.choice([draw.randrange(2**64), draw.randrange(2**20)])
            made = data if length == int.from_bytes(data[:8], "little") else length.to_bytes(8, "little") + data[8:]
            made = made if made != data else b""
        elif what == "shift":
            shift = draw.choice([-1, 1]) * draw.randrange(1, 1 << draw.randrange(1, 50))
            place["data_offsets"] = [at + shift for at in place["data_offsets"]]
            made = join(changed, body)
        elif what == "shape":
            place["shape"] = [*place["shape"], draw.randrange(2, 1 << 40)]
            made = join(changed, body)
        elif what == "noise":
            made = draw.randbytes(draw.randrange(1, 2048))
        elif what == "stretch":
            place["data_offsets"][draw.randrange(2)] += draw.choice([-1, 1]) * draw.randrange(1, 1 << 20)
            made = join(changed, body)
        elif what == "delete":
            del changed[name]
            made = join(changed, body)
        else:
            key = draw.choice(list(place))
            place[key] = draw.choice([draw.random(), -draw.randrange(1, 99), "x" * draw.randrange(9), [], {}, None])
            if place == header[name] or (key == "shape" and place[key] == []):
                place[key] = None
            made = join(changed, body)
        yield f"{number}: {what}", made


def cases(count=150):
    """All of them."""
    return [*_headers(), *_tensors(), *_metadata(), *_numbers(), *_lengths(), *_random(count)]
