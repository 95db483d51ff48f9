"""Other people's ways to make self-attention cheaper, for comparison.

Each is run by its own code (tomesd from its package, Hypertile from a webui folder, the ComfyUI node from a checkout)
or, for ToDo, by the few lines that its paper describes. Nothing of them is contained here.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import nn

from lib_attn.lab.drawing.unet import attend, project_back
from lib_attn.lab.drawing.variants import SamplingPass, Variant
from lib_attn.lab.shared.errors import LabError
from lib_attn.unet.families import find_layers, find_unet
from lib_attn.unet.layers import Layer


@contextlib.contextmanager
def free(unet: nn.Module, ahead: SamplingPass) -> Iterator[None]:
    """Self-attention that costs nothing: it hands its input back. The end of what any saving there can buy."""
    with forwards(unet, lambda layer: lambda x, context=None, mask=None: x):
        yield


def tomesd(ratio: float):
    """Token merging (dbolya/tomesd, arXiv 2303.17604), called as the webui calls it."""

    @contextlib.contextmanager
    def put(unet: nn.Module, ahead: SamplingPass) -> Iterator[None]:
        try:
            import tomesd as package
        except ImportError:
            raise LabError("The package tomesd is not installed, so token merging cannot be measured.") from None
        holder, holder.model = nn.Module(), nn.Module()
        holder.model.diffusion_model = unet
        package.apply_patch(holder, ratio=ratio, use_rand=False, merge_attn=True)
        try:
            yield
        finally:
            package.remove_patch(holder)
            for module in unet.modules():
                module.__dict__.pop("_tome_info", None)

    return put


def todo(factor: int, deepest: int = 0):
    """Token downsampling (arXiv 2402.13573): keys and values from every `factor`-th token along each axis."""

    @contextlib.contextmanager
    def put(unet: nn.Module, ahead: SamplingPass) -> Iterator[None]:
        grids: dict[int, tuple[int, int]] = {}

        def make(layer: Layer):
            if layer.depth > deepest:
                return None

            def forward(x, context=None, mask=None):
                module, (h, w) = layer.attn1, grids[id(layer.transformer)]
                few = x.unflatten(1, (h, w))[:, ::factor, ::factor].flatten(1, 2)
                out = attend(module.heads, module.to_q(x), module.to_k(few), module.to_v(few))
                return project_back(module, out)

            return forward

        with watch_grids(unet, grids), forwards(unet, make):
            yield

    return put


def hypertile(webui: str | Path, tile: int = 256, swap: int = 3, depth: int = 3):
    """The webui's built-in Hypertile at its default options, from the webui folder `webui`.

    Raises:
        LabError: when the folder has no such file.
    """
    module = load_file(Path(webui) / "extensions-builtin" / "hypertile" / "hypertile.py", "the webui's Hypertile")

    @contextlib.contextmanager
    def put(unet: nn.Module, ahead: SamplingPass) -> Iterator[None]:
        before = {id(m): m.__dict__.get("forward") for m in unet.modules()}
        module.set_hypertile_seed(ahead.seeds[0])
        module.hypertile_hook_model(
            unet, ahead.width, ahead.height, enable=True, tile_size_max=tile, swap_size=swap, max_depth=depth
        )
        try:
            yield
        finally:
            _restore(unet, before)
            for m in unet.modules():
                for name in ("__webui_hypertile_params", "__webui_hypertile_layers"):
                    m.__dict__.pop(name, None)

    return put


def comfy_node(checkout: str | Path, node: str = "NearSightedAttention"):
    """A node of MitoshiroPJ/comfyui_slothful_attention at its defaults, from a checkout of that repository.

    ComfyUI hands the normed tokens to the node three times and calls to_q, to_k and to_v on what comes back; so
    does this.

    Raises:
        LabError: when the folder has no such file or node.
    """
    module = load_file(Path(checkout) / "slothful_attention.py", "comfyui_slothful_attention")
    node_class = module.NODE_CLASS_MAPPINGS.get(node)
    if node_class is None:
        nodes = ", ".join(module.NODE_CLASS_MAPPINGS)
        raise LabError(f"comfyui_slothful_attention has no node {node}: it has {nodes}.")

    @contextlib.contextmanager
    def put(unet: nn.Module, ahead: SamplingPass) -> Iterator[None]:
        patches: dict[str, Any] = {}
        state: dict[str, Any] = {}
        inner = SimpleNamespace(
            model_config=SimpleNamespace(unet_config={"model_channels": unet.model_channels}),
            model_sampling=SimpleNamespace(timestep=lambda timestep: timestep),
        )
        model = SimpleNamespace(
            model=inner,
            set_model_attn1_patch=lambda patch: patches.__setitem__("in", patch),
            set_model_attn1_output_patch=lambda patch: patches.__setitem__("out", patch),
        )
        model.clone = lambda: model
        inputs = node_class.INPUT_TYPES()["required"]
        options = {name: spec[1]["default"] for name, spec in inputs.items() if name != "model"}
        instance = node_class()
        getattr(instance, node_class.FUNCTION)(model, **options)
        with _watch_unet(unet, state), forwards(unet, lambda layer: _comfy_forward(layer, patches, state)):
            yield

    return put


def _comfy_forward(layer: Layer, patches: dict, state: dict):
    section = {"in": "input", "mid": "middle", "out": "output"}[layer.section]

    def forward(x, context=None, mask=None):
        module = layer.attn1
        extra = {
            "block": (section, layer.number),
            "n_heads": module.heads,
            "original_shape": state["shape"],
            "sigmas": state["timesteps"],
        }
        n, k, v = patches["in"](x, x, x, extra)
        out = project_back(module, attend(module.heads, module.to_q(n), module.to_k(k), module.to_v(v)))
        return patches["out"](out, extra) if "out" in patches else out

    return forward


def load_file(path: Path, what: str):
    """Import one Python file of the user's own by its path, under a private name.

    Raises:
        LabError: when it is not there or cannot be imported.
    """
    if not path.is_file():
        raise LabError(f"{what} was not found: there is no file {path}.")
    spec = importlib.util.spec_from_file_location(f"_attention_lab_peer_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise LabError(f"{what} cannot be imported: {error}.") from None
    return module


@contextlib.contextmanager
def forwards(unet: nn.Module, make) -> Iterator[None]:
    """Set ``make(layer)`` as instance forward of every self-attention where it is not None."""
    layers = find_layers(unet)
    before = {id(layer.attn1): layer.attn1.__dict__.get("forward") for layer in layers}
    try:
        for layer in layers:
            forward = make(layer)
            if forward is not None:
                layer.attn1.forward = forward
        yield
    finally:
        _restore(unet, before)


def _restore(unet: nn.Module, before: dict) -> None:
    for module in unet.modules():
        if id(module) in before and module.__dict__.get("forward") is not before[id(module)]:
            if before[id(module)] is None:
                del module.forward
            else:
                module.forward = before[id(module)]


@contextlib.contextmanager
def watch_grids(unet: nn.Module, grids: dict) -> Iterator[None]:
    def note(transformer, args):
        grids[id(transformer)] = tuple(args[0].shape[-2:])

    transformers = {id(layer.transformer): layer.transformer for layer in find_layers(unet)}.values()
    handles = [t.register_forward_pre_hook(note) for t in transformers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def _watch_unet(unet: nn.Module, state: dict) -> Iterator[None]:
    def note(module, args, kwargs):
        timesteps = args[1] if len(args) > 1 else kwargs["timesteps"]
        state.update(shape=tuple(args[0].shape), timesteps=timesteps.float())

    handle = find_unet(unet).register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


FREE = Variant("free", "Self-attention free of cost", "free", free)


def peer_variants(webui: str | None = None, slothful: str | None = None) -> tuple[list[Variant], list[str]]:
    """The methods that can be had here, and one sentence for each that cannot.

    Args:
        webui: a webui's folder, for its Hypertile. slothful: a checkout of comfyui_slothful_attention.
    """
    peers = [_peer(f"todo{factor}", f"ToDo {factor}", todo(factor), "arXiv 2402.13573") for factor in (2, 3)]
    missing = []
    if importlib.util.find_spec("tomesd") is not None:
        peers.insert(0, _peer("tomesd", "tomesd 50 %", tomesd(0.5), "dbolya/tomesd"))
    else:
        missing.append("tomesd is left out: the package is not installed.")
    if webui:
        peers.append(_peer("hypertile", "Hypertile 256", hypertile(webui), "stable-diffusion-webui v1.10.1"))
    else:
        missing.append("The webui's Hypertile is left out: give its folder with --webui or WEBUI_DIR.")
    if slothful:
        source = "MitoshiroPJ/comfyui_slothful_attention"
        peers.append(_peer("comfy_near", "ComfyUI Near-sighted Attention", comfy_node(slothful), source))
        peers.append(_peer("comfy_tile", "ComfyUI Near-sighted Tile", comfy_node(slothful, "NearSightedTile"), source))
    else:
        missing.append("The ComfyUI nodes are left out: give a checkout with --slothful.")
    return peers, missing


def _peer(name: str, label: str, put: Any, source: str) -> Variant:
    return Variant(name, label, "peer", put, source=source)
