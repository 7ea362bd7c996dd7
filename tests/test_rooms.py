"""Dependencies between the rooms of the package point down, and all imports lead somewhere."""

import ast
import importlib
from pathlib import Path

import pytest
from checkout import ROOT

# A room may import those to its right and itself. `errors`, `options` and `checkpoint` are
# everyone's.
SHARED = {"errors", "options", "checkpoint"}
BELOW = {
    "errors": set(),
    "options": {"errors"},
    "checkpoint": {"errors"},
    "kernels": set(),
    "encoders": {"kernels"},
    "pretraining": {"encoders", "kernels"},
    "datadir": set(),
    "corpora": {"datadir"},
    "tasks": {"pretraining", "encoders", "kernels", "datadir"},
    "planning": {"tasks", "pretraining", "encoders", "kernels", "datadir"},
    "transfer": {"tasks", "encoders"},
    "api": {"tasks", "pretraining", "encoders"},
    "evaluation": {"api", "tasks", "pretraining", "encoders", "corpora", "datadir"},
    "experiments": {"evaluation", "planning", "tasks", "datadir"},
}


def imports_of(path: Path):
    """Modules of the package that a file imports, with the names it takes of them."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            if node.module.split(".")[0] == "espnet2_birq":
                yield node.module, [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "espnet2_birq":
                    yield alias.name, []


def room_of(path: Path) -> str:
    return path.relative_to(ROOT / "espnet2_birq").parts[0].removesuffix(".py")


def rooms_of(module: str, names: list[str]) -> set[str]:
    parts = module.split(".")
    return {parts[1]} if len(parts) > 1 else set(names) - {"__version__"}


@pytest.mark.parametrize("room", BELOW)
def test_arrows_point_down(room):
    files = [x for x in (ROOT / "espnet2_birq").rglob("*.py") if room_of(x) == room]
    assert files
    wrong = {
        f"{path.relative_to(ROOT)} imports {module}"
        for path in files
        for module, names in imports_of(path)
        if not rooms_of(module, names) <= BELOW[room] | SHARED | {room}
    }
    assert not wrong


def test_every_room_is_known():
    """Commands (bin) may import everything, and nothing imports them."""
    files = [
        x for x in (ROOT / "espnet2_birq").rglob("*.py") if x.name != "__init__.py"
    ]
    assert {room_of(path) for path in files} == {*BELOW, "bin"}


@pytest.mark.parametrize("folder", ["bench", "tests"])
def test_imports_outside_of_the_package_lead_somewhere(folder):
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    for path in files:
        for module, names in imports_of(path):
            found = importlib.import_module(module)
            for name in names:
                if not hasattr(found, name):
                    importlib.import_module(f"{module}.{name}")
