"""Render a set of scenes: python -m lib_attn.learn.scenes OUT --scenes 1000 --size 256."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import layout, meshes, render, renderers, shards, sources


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m lib_attn.learn.scenes", description=__doc__)
    p.add_argument("out", type=Path, help="folder of the set; an unfinished one is continued")
    p.add_argument("--scenes", type=int, default=1000)
    p.add_argument("--size", type=int, default=256, help="edge of the pictures in pixels")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--split", choices=["train", "held-out", "all"], default="train")
    p.add_argument("--maps", default="rgb,depth,normal,mask", help="comma separated: rgb, depth, normal, mask")
    p.add_argument(
        "--kinds",
        default="0.5,0.4,0.1",
        help="shares of single objects, pairs, several of a kind and, if given, rows and grids",
    )
    p.add_argument(
        "--textured",
        type=float,
        default=0.0,
        help="share of scenes with patterns, a floor, and parts that the caption leaves open (default 0)",
    )
    p.add_argument("--shard-scenes", type=int, default=1000)
    p.add_argument("--meshes", type=Path, help="folder of your own meshes (glTF, OBJ, STL) instead of primitives")
    p.add_argument(
        "--furniture",
        action="store_true",
        help="the CC0 part of Debian's sweethome3d-furniture, when installed, instead of primitives",
    )
    p.add_argument("--renderer", choices=["auto", "moderngl", "trimesh"], default="auto")
    return p


def run(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    library = sources.primitives()
    if args.meshes:
        library = sources.folder(args.meshes)
    elif args.furniture:
        library = sources.furniture()
    for problem in library.problems:
        print(problem, file=sys.stderr)
    kinds = tuple(float(v) for v in args.kinds.split(","))
    mix = layout.Mix(
        kinds=kinds,
        textured=args.textured,
        names=tuple(library.names(args.split)),
        colours=tuple(library.colours),
        split=args.split if library.colours else "all",
    )
    spec = shards.SetSpec(
        seed=args.seed,
        scenes=args.scenes,
        size=args.size,
        mix=mix,
        maps=tuple(args.maps.split(",")),
        shard_scenes=args.shard_scenes,
        source=library.title,
    )
    geometry = spec.maps != ("rgb",)
    with renderers.open_renderer(args.size, args.renderer, library.mesh) as renderer:
        with tqdm(total=args.scenes, unit="scene", desc=f"rendering with {renderer.name}") as bar:
            shards.write_set(args.out, spec, lambda scene: renderer.render(scene, geometry), bar.update)


def main(argv: list[str] | None = None) -> int:
    try:
        run(parser().parse_args(argv))
    except (meshes.MeshError, render.RenderError, shards.ShardError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped; the finished shards are kept, and the same command goes on from there.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
