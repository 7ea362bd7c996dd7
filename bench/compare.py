"""Run commands alternately in several rounds, and print medians and ratios.

    python bench/compare.py bench/steps.yaml --rounds 3 --out exp/steps.json
    python bench/compare.py --rounds 3 -- python bench/step.py --method best_rq --json \
        -- KEPT python bench/step.py --method best_rq --json

Each command runs in its own process and prints one JSON object on its last line, with the
number to compare under "seconds". Every second round runs in reverse order, so that slow
changes of the machine's load affect all commands equally. A ratio is the median over
rounds of the ratio within a round. A command may begin with environment variables
NAME=VALUE, or with the word KEPT, which stands for the settings of
espnet2_birq/kernels/allocator.py: glibc then keeps large blocks of memory instead of
returning them to the system. With --forked, programs of this folder are forks of one
process that has imported PyTorch; use it on a GPU, where imports do not affect results.

The YAML file has `commands`, a mapping from name to command; `program`, a prefix of all
commands (default: none); `environments`, a mapping from name to environment variables, in
each of which all commands run (default: one without variables); and `ratios`, a list of
"A / B" with names of commands (default: each to the first). If a command fails, the end of
its error output is reported, and the others continue.
"""

import argparse
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import yaml

BENCH = Path(__file__).resolve().parent
sys.path[:0] = [str(BENCH.parent), str(BENCH)]

import forked  # noqa: E402

from espnet2_birq.kernels.allocator import variables  # noqa: E402
from espnet2_birq.options import Parser  # noqa: E402

COLUMNS = [  # key of a command's JSON, heading, factor, format
    ("peak_rss_mib", "peak MiB", 1, ".0f"),
    ("peak_cuda_mib", "GPU peak MiB", 1, ".0f"),
    ("extra_mib", "extra MiB", 1, ".0f"),
    ("audio_per_second", "audio s/s", 1, ".1f"),
    ("gflop", "GFLOP", 1, ".0f"),
    ("share_of_matrix_rate", "% of matrix rate", 100, ".0f"),
    ("matrix_gflop_per_second", "matrix GFLOP/s", 1, ".0f"),
    ("mask_share", "mask", 1, ".2f"),
    ("agree", "agree", 1, ".4f"),
    ("encoder_parameters", "encoder M", 1e-6, ".1f"),
    ("loss", "loss", 1, ".2f"),
]


class Plan(NamedTuple):
    """Commands to run in each environment, and ratios to compute."""

    environments: dict[str, str]
    commands: dict[str, str]
    ratios: list[tuple[str, str]]

    def rows(self) -> list[tuple[str, str, str]]:
        """List the runs as (environment, name, whole command)."""
        return [
            (environment, name, f"{settings} {command}".strip())
            for environment, settings in self.environments.items()
            for name, command in self.commands.items()
        ]


def read_plan(arguments: list[str]) -> Plan:
    """Read a YAML file, or commands on the command line, each after ``--``.

    Raises:
        ValueError: The plan is wrong; the message is one line.
    """
    if arguments and arguments[0] != "--":
        path = arguments[0]
        plan = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        if not isinstance(plan, dict) or not plan.get("commands"):
            raise ValueError(f"{path}: has no 'commands'")
        environments = plan.get("environments") or {"": ""}
        program = plan.get("program", "")
        commands = {
            name: f"{program} {command}".strip()
            for name, command in plan["commands"].items()
        }
        ratios = [_ratio(text, commands, path) for text in plan.get("ratios") or []]
    else:
        found: list[list[str]] = []
        for word in arguments:
            if word == "--":
                found.append([])
            else:
                found[-1].append(word)
        environments, ratios = {"": ""}, []
        commands: dict[str, str] = {}
        for text in (shlex.join(words) for words in found if words):
            again = sum(text == other for other in commands.values())
            commands[f"{text} ({again + 1})" if again else text] = text
        if not commands:
            raise ValueError("give a YAML file, or commands, each after --")
    if not ratios:
        first, *others = commands
        ratios = [(other, first) for other in others]
    return Plan(environments, commands, ratios)


def _ratio(text: str, commands: dict[str, str], path: str) -> tuple[str, str]:
    names = [part.strip() for part in text.split(" / ")]
    unknown = [name for name in names if name not in commands]
    if unknown or len(names) != 2:
        raise ValueError(f"{path}: ratio {text!r} is not 'A / B', names of commands")
    return names[0], names[1]


def run(command: str, fork: bool = False) -> dict[str, Any]:
    """Run a command; return its JSON object, or a mapping with ``error``."""
    words, environment = shlex.split(command), dict(os.environ)
    if fork and words[0] == "python" and words[1].endswith(".py"):
        return outcome(forked.run(words[1:]))
    while words and (words[0] == "KEPT" or re.match(r"[A-Za-z_]\w*=", words[0])):
        setting = words.pop(0)
        environment.update(
            variables() if setting == "KEPT" else [setting.split("=", maxsplit=1)]
        )
    if words and words[0] == "python":
        words[0] = sys.executable
    try:
        done = subprocess.run(words, env=environment, capture_output=True, text=True)
    except OSError as error:
        return dict(error=str(error))
    return outcome(done)


def outcome(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Return the JSON object that a command printed, or a mapping with ``error``."""
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0:
        tail = " | ".join(done.stderr.strip().splitlines()[-5:])
        return dict(error=f"exit status {done.returncode}: {tail}")
    try:
        result = json.loads(lines[-1])
        result["seconds"] = float(result["seconds"])
    except (IndexError, ValueError, KeyError, TypeError):
        return dict(error="its last line is no JSON object with a number 'seconds'")
    return result


def measure(plan: Plan, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Run all commands alternately; return a row for each, with ``results`` by round.

    Commands that have not begun within ``args.seconds`` are reported as not run.
    """
    rounds, out, begin = args.rounds, args.out, time.monotonic()
    rows = [
        dict(environment=environment, name=name, command=command, results=[])
        for environment, name, command in plan.rows()
    ]
    done = 0
    for number in range(rounds):
        for row in rows if number % 2 == 0 else rows[::-1]:
            start = time.monotonic()
            late = args.seconds is not None and start - begin > args.seconds
            row["results"].append(
                dict(error=f"not run: behind the first {args.seconds:.0f} s")
                if late
                else run(row["command"], args.forked)
            )
            result, done = row["results"][-1], done + 1
            outcome = result.get("error") or f"{result['seconds']:.4g} s"
            print(
                f"[{done}/{rounds * len(rows)}] {label(row)}: {outcome} (in all "
                f"{time.monotonic() - start:.0f} s)",
                file=sys.stderr,
                flush=True,
            )
            if out is not None:
                write_json(out, dict(rows=rows))
    return rows


def label(row: dict[str, Any]) -> str:
    """Return the name of a row."""
    return ", ".join(part for part in (row["environment"], row["name"]) if part)


def good(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row's successful results."""
    return [result for result in row["results"] if "error" not in result]


def ratios(plan: Plan, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Compute medians over rounds of A's seconds / B's, in each environment."""
    by_name = {(row["environment"], row["name"]): row["results"] for row in rows}
    found = []
    for environment in plan.environments:
        for a, b in plan.ratios:
            pairs = zip(by_name[environment, a], by_name[environment, b])
            values = [
                x["seconds"] / y["seconds"]
                for x, y in pairs
                if "error" not in x and "error" not in y
            ]
            row = dict(environment=environment, ratio=f"{a} / {b}", rounds=len(values))
            if values:
                row.update(
                    median=round(statistics.median(values), 3),
                    least=round(min(values), 3),
                    most=round(max(values), 3),
                )
            found.append(row)
    return found


def tables(rows: list[dict[str, Any]], found: list[dict[str, Any]]) -> str:
    """Format the results and ratios as two Markdown tables."""
    keys = [
        column
        for column in COLUMNS
        if any(result.get(column[0]) for row in rows for result in good(row))
    ]
    heads = ["command", "s [min, max]", *(column[1] for column in keys)]
    lines = [_line(heads), "|---" * len(heads) + "|"]
    for row in rows:
        results = good(row)
        if not results:
            lines.append(_line([label(row), "failed", *("" for _ in keys)]))
            continue
        least = min(result.get("seconds_min", result["seconds"]) for result in results)
        most = max(result.get("seconds_max", result["seconds"]) for result in results)
        median = statistics.median(result["seconds"] for result in results)
        cells = [label(row), f"{median:.3g} [{least:.3g}, {most:.3g}]"]
        for key, _, factor, form in keys:
            values = [result[key] for result in results if result.get(key)]
            middle = statistics.median(values) if values else None
            cells.append("" if middle is None else format(factor * middle, form))
        lines.append(_line(cells))
    lines += ["", _line(["ratio of seconds", "median [min, max]", "rounds"])]
    lines.append("|---|---|---|")
    for row in found:
        spread = "failed"
        if row["rounds"]:
            spread = f"{row['median']:.2f} [{row['least']:.2f}, {row['most']:.2f}]"
        name = ", ".join(x for x in (row["environment"], row["ratio"]) if x)
        lines.append(_line([name, spread, str(row["rounds"])]))
    return "\n".join(lines)


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def write_json(path: Path, content: dict[str, Any]):
    """Write a JSON file, complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    beside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    beside.replace(path)


def main():
    """Run, print, and exit with 1 if anything failed."""
    own, commands = sys.argv[1:], []
    if "--" in own:
        own, commands = own[: own.index("--")], own[own.index("--") :]
    parser = Parser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("plan", nargs="?", help="YAML file; or commands, each after --")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--out", type=Path, help="file for all results, as JSON")
    parser.add_argument("--seconds", type=float, help="begin nothing later (no limit)")
    parser.add_argument("--forked", action="store_true", help="see above; for a GPU")
    parser.add_argument(
        "--dry_run", action="store_true", help="print the commands, run none"
    )
    args = parser.parse_args(own)
    if args.plan and commands:
        parser.error("give a YAML file or commands, not both")
    try:
        plan = read_plan([args.plan] if args.plan else commands)
    except (ValueError, OSError, yaml.YAMLError) as error:
        sys.exit(f"bench/compare.py: {error}")
    if args.dry_run:
        print("\n".join(command for _, _, command in plan.rows()))
        return
    if args.forked:
        forked.preload()
    rows = measure(plan, args)
    found = ratios(plan, rows)
    if args.out is not None:
        write_json(args.out, dict(rounds=args.rounds, rows=rows, ratios=found))
    print(tables(rows, found))
    failed = [row for row in rows if len(good(row)) < args.rounds]
    for row in failed:
        errors = [x["error"] for x in row["results"] if "error" in x]
        print(f"{label(row)}: failed in {len(errors)} rounds: {errors[-1]}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
