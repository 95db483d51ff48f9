"""What the hooks do under autocast, as on a GPU: nothing overflows, no types are mixed, hardly anything changes."""

import re
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch.overrides import TorchFunctionMode

pytest.importorskip("ldm", reason="the tiny U-Nets are ldm's")

from lib_attn.attach import attach
from lib_attn.settings import Settings
from lib_attn.techniques.depth_guide.head import blurred
from lib_attn.techniques.dictionary.codes import solver, sparse_codes
from lib_attn.techniques.dictionary.static import Linear
from lib_attn.techniques.thin_qk.maths import head_moments
from lib_attn.unet import fused
from lib_attn.unet.precision import without_autocast
from lib_attn.unet.rows import Matcher, plan_rows
from tests.acting import IDS, WAYS
from tests.unets import unet_input

ROOT = Path(__file__).parents[1]
SIGMAS = (14.6, 7.0, 3.0, 1.2, 0.4)


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Strict(TorchFunctionMode):
    """Autocast on CUDA casts what goes into a matrix product and leaves linear algebra alone; that on a CPU casts both.

    So here linear algebra is as strict as there: what it is handed is of one type.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if torch.is_autocast_enabled("cpu") and getattr(function, "__name__", "").startswith("linalg_"):
            kinds = {a.dtype for a in args if isinstance(a, torch.Tensor)}
            assert kinds <= {torch.float32} or kinds <= {torch.float64}, f"{function.__name__} of {kinds}"
        return function(*args, **(kwargs or {}))


@pytest.fixture
def gpu():
    """As under the webui's autocast to half precision on a GPU."""
    with torch.autocast("cpu", dtype=torch.float16), Strict():
        yield


def test_the_strict_mode_finds_mixed_types(gpu):
    square = rand(4, 4) @ rand(4, 4)
    assert square.dtype == torch.float16
    with pytest.raises(AssertionError, match="linalg_solve"):
        torch.linalg.solve(square, torch.eye(4))


@pytest.mark.parametrize("error", [RuntimeError, AssertionError])
def test_a_kind_of_device_without_autocast_is_left_alone(monkeypatch, error):
    """Older torch refuses to name mps, and any torch a device of somebody else's (DirectML)."""

    def refuses(kind, **options):
        raise error(f"User specified an unsupported autocast device_type '{kind}'")

    with torch.autocast("cpu", dtype=torch.float16), without_autocast(torch.device("cpu")):
        assert (rand(2, 2) @ rand(2, 2)).dtype == torch.float32
    monkeypatch.setattr(torch, "autocast", refuses)
    assert isinstance(without_autocast(torch.device("mps")), nullcontext)


def test_nobody_else_in_the_hooks_switches_autocast():
    """Or it would be refused on the devices that have none."""
    folders = ("techniques", "unet", "webui", "learned")
    files = [f for name in folders for f in (ROOT / "lib_attn" / name).rglob("*.py") if f.name != "precision.py"]
    assert len(files) > 50
    files.append(ROOT / "lib_attn/learn/capture.py")
    assert [f.name for f in files if re.search(r"\bautocast\(", f.read_text())] == []


@pytest.mark.parametrize("edge", [64, 128])
@pytest.mark.parametrize("sigma", [14.6, 1.0])
def test_rows_in_another_order_are_found(gpu, edge, sigma):
    """The sum of a picture's squares is far beyond the largest number of half precision."""
    latents = (1 + sigma**2) ** 0.5 * rand(2, 4, edge, edge)
    rows, order = plan_rows([[1.0], [1.0]]), [1, 0, 3, 2]
    x = latents[[row.image for row in rows]][order] / (1 + sigma**2) ** 0.5
    expected = tuple(rows[i] for i in order)
    for kind in (torch.float32, torch.float16):
        assert Matcher(rows, latents.to(kind)).match(rows, x.to(kind)) == expected


def calls():
    """Arithmetic that stays in single precision."""
    atoms, x = rand(40, 16), rand(100, 16, seed=1)
    yield "pseudo-inverse", lambda: solver(atoms)
    yield "ridge", lambda: solver(atoms, 0.1)
    yield "sparse codes", lambda: sparse_codes(x, atoms, 4)[1]
    yield "folded", lambda: Linear(atoms, 0.1).fold(rand(40, 8, seed=2))
    yield "moments", lambda: head_moments(rand(32, 16), 4)
    yield "blurred", lambda: blurred(rand(1, 4, 16, 16), 2.0)


@pytest.mark.parametrize("compute", [c for _, c in calls()], ids=[name for name, _ in calls()])
def test_is_the_same_bit_for_bit(compute):
    plain = compute()
    with torch.autocast("cpu", dtype=torch.float16), Strict():
        assert torch.equal(compute(), plain) and plain.dtype == torch.float32


def drawn(unet, groups):
    """Predictions along a sampler's way, and what was said."""
    rows, said, outs = plan_rows([[1.0], [1.0]]), [], []
    text = unet_input(4, 1, 1, seed=3)[1]
    z = SIGMAS[0] * rand(2, 4, 16, 16)
    with attach(unet, groups, seeds=[7, 8], say=said.append) as attachment, torch.no_grad():
        for step, sigma in enumerate(SIGMAS):
            attachment.begin_step(rows, step, len(SIGMAS), (16, 16), latents=z, texts=list(text), cfg=4.0)
            x = (z / (1 + sigma**2) ** 0.5)[[row.image for row in rows]]
            out = unet(x, torch.full((4,), 900.0 - 180 * step), context=text).float()
            attachment.end_step()
            outs.append(out)
            guided = out[2:] + 4.0 * (out[:2] - out[2:])
            z = z + (SIGMAS[min(step + 1, len(SIGMAS) - 1)] - sigma) * guided
    return torch.stack(outs), said


@pytest.mark.parametrize(("technique", "values"), WAYS, ids=IDS)
def test_each_technique_draws_nearly_the_same(unet, technique, values):
    settings, messages = Settings.read({technique.name: values})
    assert not messages
    exact, said = drawn(unet, list(settings.active()))
    without, _ = drawn(unet, [])
    assert not torch.equal(exact, without), "it acts"
    with torch.autocast("cpu", dtype=torch.float16), Strict():
        half, said_then = drawn(unet, list(settings.active()))
        half_without, _ = drawn(unet, [])
    assert said_then == said, "nothing stands back"
    # Contrast makes the difference of two rows larger in block after block, and their rounding with it.
    share = 0.15 if technique.name == "contrast" else 0.02
    rounding = (half_without - without).norm()
    assert half.isfinite().all() and (half - exact).norm() < 4 * rounding + share * (exact - without).norm()


@pytest.mark.parametrize("masked", ["no mask", "keys", "pairs"])
@pytest.mark.parametrize("most", [1, 3 * 2 * 3 * 11, 1 << 30])
def test_attention_in_parts_is_attention(monkeypatch, masked, most):
    """On devices where torch would hold all similarities at once."""
    q, k, v = rand(2, 3, 13, 8), rand(2, 3, 11, 8, seed=1), rand(2, 3, 11, 5, seed=2)
    mask = {"no mask": None, "keys": rand(2, 1, 1, 11, seed=3), "pairs": rand(2, 3, 13, 11, seed=3)}[masked]
    whole = fused.full_attention(q, k, v, mask)
    logits = q @ k.mT / 8**0.5 + (0 if mask is None else mask)
    torch.testing.assert_close(whole, logits.softmax(-1) @ v)
    monkeypatch.setattr(fused, "spares_similarities", lambda device: False)
    monkeypatch.setattr(fused, "SCORES", most)
    torch.testing.assert_close(fused.full_attention(q, k, v, mask), whole)
