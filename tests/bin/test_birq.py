"""The command birq: its list, late imports, option names, entry point."""

import configparser
import subprocess
import sys

import pytest
from checkout import ROOT

from espnet2_birq.bin import birq
from espnet2_birq.options import HelpFormatter, Parser, known_names

# They use ESPnet's parsers, which import PyTorch.
OF_ESPNET = {"asr_inference", "asr_train", "ssl_train"}


def listed(capsys):
    birq.main([])
    return [line.split()[0] for line in capsys.readouterr().out.splitlines()[2:]]


def test_all_commands_are_listed_with_a_sentence(capsys):
    birq.main(["--help"])
    lines = capsys.readouterr().out.splitlines()[2:]
    assert all(len(line.split()) > 3 and "``:" not in line for line in lines)
    names = {line.split()[0] for line in lines}
    modules = {path.stem for path in (ROOT / "espnet2_birq/bin").glob("*.py")}
    assert names == modules - {"__init__", "birq", "command", "with_encoders"}
    with pytest.raises(SystemExit, match="no command 'nope'"):
        birq.main(["nope"])


HELP = """
import contextlib, importlib, io, sys
from espnet2_birq.bin import birq
heavy = {"torch", "numba", "espnet2", "matplotlib", "sklearn"}
for name in sys.argv[1:]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        birq.main([name.replace("_", "-"), "--help"])
    assert f"usage: birq {name}" in out.getvalue(), name
    assert "espnet2_birq.bin" not in out.getvalue(), name
    assert not heavy & sys.modules.keys(), (name, heavy & sys.modules.keys())
"""


def test_help_imports_nothing_heavy(capsys):
    names = [name for name in listed(capsys) if name not in OF_ESPNET]
    command = [sys.executable, "-c", HELP, *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", sorted(OF_ESPNET))
def test_help_of_espnets_commands(name, capsys):
    try:
        birq.main([name, "--help"])
    except SystemExit as end:
        assert not end.code
    assert "--output_dir" in capsys.readouterr().out


def test_hyphens_in_all_commands(capsys):
    """Parsers of this package and of ESPnet accept hyphens in option names."""
    import importlib

    for name in listed(capsys):
        parser = importlib.import_module(f"espnet2_birq.bin.{name}").get_parser()
        if name not in OF_ESPNET:
            assert isinstance(parser, Parser), name
        assert known_names(parser, ["--help"]) == ["--help"]
    ssl_train = importlib.import_module("espnet2_birq.bin.ssl_train").get_parser()
    given = known_names(ssl_train, ["--max-epoch", "3", "--output-dir=x-y"])
    assert given == ["--max_epoch", "3", "--output_dir=x-y"]
    args = ssl_train.parse_args(given)
    assert (args.max_epoch, args.output_dir) == (3, "x-y")


def test_ssl_train_takes_hyphens(monkeypatch):
    from espnet2_birq.bin import ssl_train

    seen = []
    monkeypatch.setattr(ssl_train.SSLTask, "main", lambda args: seen.append(args))
    ssl_train.main(["--output-dir", "x", "--max-epoch", "7"])
    assert seen[0].max_epoch == 7


def test_entry_point_and_module():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    scripts = setup["options.entry_points"]["console_scripts"].split("\n")
    assert "birq = espnet2_birq.bin.birq:main" in scripts
    command = [sys.executable, "-m", "espnet2_birq", "stamp", "check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "usage: birq stamp" in done.stderr


def test_a_reader_that_has_enough(tmp_path):
    """`birq ... | head` ends silently, with the usual status of a closed pipe."""
    script = "import sys; from espnet2_birq.bin import command\n"
    script += "command.run(lambda _: print('line\\n' * 100_000, flush=True), None)"
    program = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    program.stdout.readline()
    program.stdout.close()
    assert program.wait(timeout=60) == 141
    assert program.stderr.read() == b""


def test_help_states_defaults_that_say_something():
    parser = Parser(formatter_class=HelpFormatter, description="two\n  lines")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    parser.add_argument("--quiet", action="store_true", help="say nothing")
    parser.add_argument("--out", help="file")
    parser.add_argument("--only", nargs="+", default=(), help="names")
    parser.add_argument("--nj", default=4, help="jobs (default: the cores)")
    said = parser.format_help()
    assert "two\n  lines" in said and "random seed (default: 0)" in said
    assert said.count("(default") == 2 and "(default: the cores)" in said
