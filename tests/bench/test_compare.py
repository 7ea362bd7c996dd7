"""bench/compare.py: alternating commands, ratios, and a failing command."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

COMPARE = Path(__file__).resolve().parents[2] / "bench" / "compare.py"
sys.path.insert(0, str(COMPARE.parent))

import compare  # noqa: E402

from espnet2_birq.kernels.allocator import variables  # noqa: E402

# Logs its name when it runs, and prints the number that it was given.
PROGRAM = """
import json, os, sys
log, name, seconds = sys.argv[1:]
print(name, file=open(log, "a"))
print("a word before")
print(json.dumps(dict(seconds=float(seconds) * float(os.environ.get("FACTOR", 1)))))
"""


@pytest.fixture
def command(tmp_path):
    program = tmp_path / "a program.py"
    program.write_text(PROGRAM)
    return lambda name, seconds: f"python '{program}' '{tmp_path}/log' {name} {seconds}"


def run(*arguments):
    words = [sys.executable, str(COMPARE), *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True)


def test_rounds_ratios_and_environments(tmp_path, command):
    plan = dict(
        environments=dict(one="", twice="FACTOR=2"),
        commands=dict(a=command("a", 3.0), b=command("b", 1.5)),
        ratios=["a / b", "b / a"],
    )
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    out = tmp_path / "new" / "out.json"
    done = run(tmp_path / "plan.yaml", "--rounds", 2, "--out", out)
    assert done.returncode == 0, done.stderr
    # The second round runs in reverse order.
    assert (tmp_path / "log").read_text().split() == list("abab") + list("baba")
    content = json.loads(out.read_text())
    seconds = [[r["seconds"] for r in row["results"]] for row in content["rows"]]
    assert seconds == [[3.0] * 2, [1.5] * 2, [6.0] * 2, [3.0] * 2]
    assert [row["median"] for row in content["ratios"]] == [2.0, 0.5, 2.0, 0.5]
    assert "| twice, a / b | 2.00 [2.00, 2.00] | 2 |" in done.stdout


def test_a_command_that_fails_is_reported_and_the_others_go_on(tmp_path, command):
    failing = ["python", "-c", "import sys; sys.exit('no such thing')"]
    silent = ["python", "-c", "print('nothing')"]
    good = ["FACTOR=2", *command("good", 1).replace("'", "").rsplit(maxsplit=3)]
    good[1:2] = ["python", str(tmp_path / "a program.py")]
    done = run("--rounds", 1, "--", *good, "--", *failing, "--", *silent)
    assert done.returncode == 1
    assert "exit status 1: no such thing" in done.stdout
    assert "no JSON object" in done.stdout
    assert "| 2 [2, 2] |" in done.stdout
    assert done.stdout.count("| failed |") == 4  # two rows, and a ratio for each


def test_the_median_of_ratios_is_within_rounds():
    plan = compare.Plan({"": ""}, dict(a="", b=""), [("b", "a")])
    rows = [
        dict(environment="", name="a", results=[dict(seconds=s) for s in (1, 10, 2)]),
        dict(environment="", name="b", results=[dict(seconds=s) for s in (2, 30, 8)]),
    ]
    (row,) = compare.ratios(plan, rows)
    assert (row["median"], row["least"], row["most"]) == (3.0, 2.0, 4.0)
    rows[0]["results"][1] = dict(error="x")
    (row,) = compare.ratios(plan, rows)
    assert (row["median"], row["rounds"]) == (3.0, 2)


@pytest.mark.parametrize(
    "text", ["[]", "commands: {}", "commands: {a: b}\nratios: [a]"]
)
def test_a_wrong_plan_is_one_line(tmp_path, text):
    (tmp_path / "plan.yaml").write_text(text)
    done = run(tmp_path / "plan.yaml")
    assert done.returncode == 1
    assert done.stderr.startswith("bench/compare.py: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["steps", "steps_gpu", "quantizers"])
def test_the_plans_of_this_folder(name):
    plan = compare.read_plan([str(COMPARE.parent / f"{name}.yaml")])
    for _, _, command in plan.rows():
        assert "python bench/" in command


def test_kept_is_a_setting_of_the_environment():
    show = (
        "import json, os; "
        "print(json.dumps(dict(seconds=os.environ['MALLOC_TOP_PAD_'])))"
    )
    result = compare.run(f'KEPT python -c "{show}"')
    assert result == dict(seconds=float(variables()["MALLOC_TOP_PAD_"]))
