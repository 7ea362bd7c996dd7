"""Commands in README and docs exist and accept the options given there."""

import contextlib
import importlib
import io
import re
from pathlib import Path

import pytest
from checkout import ROOT
from pages import Command, commands

from espnet2_birq.options import known_names

ALL = list(commands())
OF_BIRQ = [one for one in ALL if one.kind == "birq"]
OF_SCRIPTS = [one for one in ALL if one.kind == "script"]
# Elisions in commands, and placeholders for whole options
ELIDED = re.compile(r"\.\.\.|[<\[{}$>|]|[A-Z]{3,}")
# Commands that pass unknown options to another one.
PASSING = {"plan": "ssl_train"}


def name_of(one: Command) -> str:
    return f"{one.page.relative_to(ROOT)}: {one.name} {' '.join(one.words)}"[:120]


def parser_of(name: str):
    return importlib.import_module(f"espnet2_birq.bin.{name}").get_parser()


def test_there_are_commands():
    assert len(OF_BIRQ) > 60 and len(OF_SCRIPTS) > 30
    pages = {one.page.name for one in ALL}
    assert {"README.md", "tutorial_laptop.md", "tutorial_cluster.md"} <= pages


@pytest.mark.parametrize("one", OF_BIRQ, ids=name_of)
def test_command_takes_its_options(one):
    if one.name in ("NAME", "X"):
        return
    assert (ROOT / f"espnet2_birq/bin/{one.name}.py").is_file(), name_of(one)
    parser = parser_of(one.name)
    given = known_names(parser, one.words)
    own = given[: given.index("--")] if "--" in given else given
    known = set(parser._option_string_actions)
    for parent in (PASSING.get(one.name), *_commands_below(parser, own)):
        if parent is not None:
            below = parser_of(parent) if isinstance(parent, str) else parent
            known |= set(below._option_string_actions)
            own = known_names(below, own)
    wrong = {x.split("=")[0] for x in own if re.match(r"--\w\S*$", x)} - known
    assert not wrong, f"{name_of(one)}: {wrong}"
    if one.words and not any(ELIDED.search(x) for x in one.words):
        _parses(one, parser, known_names(parser, one.words))


def _commands_below(parser, given):
    for action in parser._actions:
        if hasattr(action, "_name_parser_map"):
            yield from (
                action._name_parser_map[x] for x in given if x in action.choices
            )


def _parses(one: Command, parser, given: list[str]):
    """Check types, choices, numbers of arguments, and required options."""
    files = [x for x in given if Path(x).suffix == ".yaml" and x.startswith("conf/")]
    for file in files:
        known = [*ROOT.glob(file), *ROOT.glob(f"conf/*/{file.removeprefix('conf/')}")]
        assert known, f"{name_of(one)}: no {file}"
    if "--config" in given and one.name in ("ssl_train", "asr_train"):
        index = given.index("--config")
        given = given[:index] + given[index + 2 :]
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            parser.parse_known_args(given)
    except SystemExit as error:
        assert error.code == 0, f"{name_of(one)}: {said.getvalue()[-300:]}"


def options_of(script: Path) -> set[str]:
    """Return a shell script's options: variables before parse_options.sh, or cases."""
    text = script.read_text(encoding="utf-8")
    own = set(re.findall(r"^(\w+)=", text.split("parse_options.sh")[0], re.MULTILINE))
    own |= set(re.findall(r"(?<!\S)(\w+)=(?=\S*(?: |$))", text.split(". utils")[0]))
    for line in re.findall(r"sort_options (.*?)\.\w", text.replace("\\\n", " ")):
        own |= set(re.findall(r"\w+", line))
    return own | set(re.findall(r"^ +--([\w-]+)\)", text, re.MULTILINE))


def recipes_options(task: str) -> set[str]:
    scripts = [
        path
        for path in ROOT.glob(f"egs2/*/{task}/*.sh")
        if path.name != "path.sh" and path.is_file()
    ]
    own = set().union(*(options_of(path) for path in scripts))
    data = ROOT.glob(f"egs2/*/{task}/local/*.sh")
    return own.union(*(options_of(path) for path in data if path.is_file()))


@pytest.mark.parametrize("one", OF_SCRIPTS, ids=name_of)
def test_script_takes_its_options(one):
    if one.name == "setup.sh":
        known = {"espnet-tree", "help"}
    else:
        if not (ROOT / "tools/espnet/egs2").is_dir():
            pytest.skip("no ESPnet tree")
        known = {"help", "dry-run"} | recipes_options(one.folder or "*")
    given = {x[2:].split("=")[0] for x in one.words if re.match(r"--\w\S*$", x)}
    assert not given - known, f"{name_of(one)}: {given - known}"
