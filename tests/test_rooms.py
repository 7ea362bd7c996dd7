"""Dependencies between rooms point down, imports exist, and bin/ only parses."""

import ast
import importlib
from pathlib import Path

import pytest
from checkout import ROOT

# A room may import itself and those to its right. All rooms may import these six.
SHARED = {"errors", "options", "reading", "config", "checkpoint", "recipes"}
BELOW = {
    "errors": set(),
    "options": {"errors"},
    "reading": {"errors"},
    "config": {"errors", "reading"},
    "checkpoint": {"errors", "reading"},
    "recipes": {"errors"},
    "kernels": set(),
    "encoders": {"kernels"},
    "pretraining": {"encoders", "kernels"},
    "datadir": set(),
    "corpora": {"datadir"},
    "tasks": {"pretrained", "pretraining", "encoders", "kernels", "datadir"},
    "planning": {"tasks", "pretraining", "encoders", "kernels", "datadir"},
    "transfer": {"tasks", "encoders"},
    "pretrained": {"pretraining", "encoders", "datadir"},
    "api": {"pretrained", "tasks", "pretraining"},
    "extraction": {"api", "pretrained", "tasks", "datadir"},
    "relabelling": {"api", "tasks", "pretraining", "encoders", "datadir"},
    "evaluation": {
        "api",
        "pretrained",
        "tasks",
        "pretraining",
        "encoders",
        "corpora",
        "datadir",
    },
    "consumers": {"api", "pretrained", "experiments", "tasks"},
    "experiments": {"api", "evaluation", "planning", "tasks", "datadir"},
}


def imports_of(path: Path):
    """Yield the package's modules that a file imports, with the imported names."""
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
    files = [x for x in (ROOT / "espnet2_birq").rglob("*.py") if x.name[0] != "_"]
    assert {room_of(path) for path in files} == {*BELOW, "bin"}


BIN = sorted((ROOT / "espnet2_birq" / "bin").rglob("*.py"))
# Functions shared within bin/, or not part of a parser.
HELPERS = {
    "command.py": {"make_parser", "add_shared_options", "wanted_rate", "run"}
    | {"warnings_off"},
    "with_encoders.py": {"translate"},
}
# Calls that belong in a room: they write files or run programs.
WORK = {"write_text", "write_bytes", "mkdir", "unlink", "rename", "open", "Popen"}


@pytest.mark.parametrize("path", BIN, ids=lambda path: path.stem)
def test_commands_are_parsers(path):
    """Besides options and main(), a command has one function, which maps them to a call."""
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    tree = ast.parse(text)
    assert not [x.name for x in ast.walk(tree) if isinstance(x, ast.ClassDef)]
    functions = [x for x in tree.body if isinstance(x, ast.FunctionDef)]
    public = {x.name for x in functions if x.name[0] != "_"}
    public -= HELPERS.get(path.name, set()) | {"get_parser", "main"}
    assert len({name for name in public if not name.startswith("add_")}) <= 1
    for function in functions:
        parses = function.name.startswith(("get_parser", "add_"))
        assert parses or function.end_lineno - function.lineno < 30, function.name
    calls = [x.func for x in ast.walk(tree) if isinstance(x, ast.Call)]
    assert not {x.attr for x in calls if isinstance(x, ast.Attribute)} & WORK


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
