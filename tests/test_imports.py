"""Who may import whom inside `lib_attn`: read from the source, imports inside functions included.

`ROOMS` is the order: a module imports its own room and those before it, never one after it. Inside a room there is no
circle. To add a room, put it where it belongs; a module that belongs to none fails.
"""

import ast
from pathlib import Path

from tests.conftest import ROOT

#: From the bottom up. A module belongs to the longest name here that it starts with.
ROOMS = (
    "lib_attn.unet",
    "lib_attn.names",
    "lib_attn.schema",
    "lib_attn.store",
    "lib_attn.learned",
    "lib_attn.techniques",
    "lib_attn.settings",
    "lib_attn.presets",
    "lib_attn.preview",
    "lib_attn.attach",
    "lib_attn.learn.capture",
    "lib_attn.learn.learners",
    "lib_attn.learn.run",
    "lib_attn.learn.shown",
    "lib_attn.learn.dictionary",
    "lib_attn.learn.thin_qk",
    "lib_attn.webui",
    "lib_attn.learn.scenes",
    "lib_attn.lab.shared",
    "lib_attn.lab.drawing",
    "lib_attn.lab.judging",
    "lib_attn.lab.measuring",
    "lib_attn.lab.reports",
    "lib_attn.lab.commands",
    "lib_attn.learn.stopping",
    "lib_attn.learn.reference_model",
    "lib_attn.learn.depth",
)
#: Packages that only hold rooms: they import nothing and nobody imports them for anything else.
FRAMES = ("lib_attn", "lib_attn.lab", "lib_attn.learn")
#: ``python -m``: stands above everything.
ENTRIES = ("lib_attn.lab.__main__", "lib_attn.learn.__main__")
#: Imports inside functions: the page is a gradio program, and only ``ui`` may wait for gradio.
INSIDE_FUNCTIONS = {("lib_attn.lab.commands.ui", "lib_attn.lab.drawing.page")}
#: Rooms that a room does not import although it stands above them.
APART = {
    "lib_attn.webui": ("lib_attn.lab", "lib_attn.learn.scenes", "lib_attn.learn.reference_model"),
    "lib_attn.learn.scenes": ("lib_attn.webui", "lib_attn.techniques", "lib_attn.attach", "lib_attn.settings"),
    "lib_attn.lab.shared": ("lib_attn.learn", "lib_attn.webui", "lib_attn.techniques", "lib_attn.settings"),
    "lib_attn.lab.judging": ("lib_attn.lab.drawing",),
    "lib_attn.learn.reference_model": ("lib_attn.lab.judging", "lib_attn.lab.measuring", "lib_attn.lab.reports",
                                       "lib_attn.lab.commands", "lib_attn.webui"),
}  # fmt: skip
#: The one module of the lab that needs what the webui has, its panel.
WITH_PANEL = ("lib_attn.lab.drawing.page",)


def find_modules(root: Path) -> dict[str, Path]:
    """Dotted name -> file of every module of `lib_attn`."""
    found = {}
    for path in sorted((root / "lib_attn").rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = find_modules(ROOT)


def imports_of(name: str, path: Path, modules: dict[str, Path]) -> list[tuple[str, bool]]:
    """What a module imports of `lib_attn`, and whether inside a function; a name imported of a package is the module
    of that name where there is one."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: list[tuple[str, bool]] = []

    def visit(node: ast.AST, inside: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found.extend((alias.name, inside) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                above = package.split(".")[: len(package.split(".")) - child.level + 1] if child.level else []
                base = ".".join([*above, *([child.module] if child.module else [])])
                whole = (f"{base}.{alias.name}" for alias in child.names)
                found.extend((target if target in modules else base, inside) for target in whole)
            visit(child, inside or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)))

    visit(ast.parse(path.read_text(encoding="utf-8")), False)
    return [(target, inside) for target, inside in found if target.split(".")[0] == "lib_attn"]


IMPORTS = {name: imports_of(name, path, MODULES) for name, path in MODULES.items()}


def belongs(name: str, room: str) -> bool:
    return name == room or name.startswith(f"{room}.")


def room_of(name: str) -> str | None:
    """The room of a module; None for frames and entries."""
    if name in FRAMES or name in ENTRIES:
        return None
    return max((room for room in ROOMS if belongs(name, room)), key=len)


def find_circle(imports: dict[str, list[tuple[str, bool]]]) -> list[str]:
    """Modules that import each other in a ring, the first one at the end again; empty when there is none."""
    done: set[str] = set()

    def walk(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return []
        for target, _ in imports.get(name, ()):
            if target != name and (ring := walk(target, [*way, name])):
                return ring
        done.add(name)
        return []

    return next((ring for name in imports if (ring := walk(name, []))), [])


def test_every_module_has_a_room_and_every_room_has_modules():
    homeless = [m for m in MODULES if m not in FRAMES + ENTRIES and not any(belongs(m, room) for room in ROOMS)]
    assert not homeless
    assert [room for room in ROOMS if not any(belongs(m, room) for m in MODULES)] == []
    assert len(MODULES) > 80 and sum(map(len, IMPORTS.values())) > 200, "the source was not found"


def test_nothing_imports_upward():
    wrong = []
    for name, targets in IMPORTS.items():
        if name in ENTRIES:
            continue
        for target, _ in targets:
            if name in FRAMES or (target not in FRAMES and ROOMS.index(room_of(target)) > ROOMS.index(room_of(name))):
                wrong.append(f"{name} -> {target}")
    assert wrong == []


def test_there_is_no_circle():
    assert find_circle(IMPORTS) == []


def test_rooms_that_stay_apart():
    wrong = [
        f"{name} -> {target}"
        for room, others in APART.items()
        for name in MODULES if belongs(name, room)
        for target, _ in IMPORTS[name] if any(belongs(target, other) for other in others)
    ]  # fmt: skip
    assert wrong == []
    panel = [name for name in MODULES if belongs(name, "lib_attn.lab")
             and any(belongs(target, "lib_attn.webui") for target, _ in IMPORTS[name])]  # fmt: skip
    assert tuple(panel) == WITH_PANEL


def test_imports_of_ours_stand_at_the_top():
    inside = {(name, target) for name, targets in IMPORTS.items() for target, within in targets if within}
    assert inside == INSIDE_FUNCTIONS


def test_techniques_know_no_host():
    """Everything below the webui works without it: no import of its ``modules``, nor of gradio."""
    for name, path in MODULES.items():
        if belongs(name, "lib_attn.webui") or name in WITH_PANEL:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            assert not {n.split(".")[0] for n in names} & {"modules", "gradio"}, name


def test_what_these_tests_see(tmp_path):
    """A ring, an import inside a function and a relative one are found."""
    package = tmp_path / "lib_attn" / "a"
    package.mkdir(parents=True)
    for path, text in {
        tmp_path / "lib_attn" / "__init__.py": "",
        package / "__init__.py": "",
        package / "b.py": "def f():\n    from . import c\n",
        package / "c.py": "from lib_attn.a.d import x\n",
        package / "d.py": "from .b import f\nimport json\n",
    }.items():
        path.write_text(text)
    modules = find_modules(tmp_path)
    imports = {name: imports_of(name, path, modules) for name, path in modules.items()}
    assert imports["lib_attn.a.b"] == [("lib_attn.a.c", True)] and imports["lib_attn.a.d"] == [("lib_attn.a.b", False)]
    ring = find_circle(imports)
    assert ring[0] == ring[-1] and set(ring) == {"lib_attn.a.b", "lib_attn.a.c", "lib_attn.a.d"}
    assert find_circle({"x": [("y", False)], "y": [("z", False)], "z": []}) == []


def test_what_measures_never_sees_the_command_line():
    """Options become a specification in `commands`; no other room of the lab knows argparse."""
    users = {name for name, path in MODULES.items() if belongs(name, "lib_attn.lab") and "argparse" in path.read_text()}
    assert users and all(belongs(name, "lib_attn.lab.commands") for name in users)
