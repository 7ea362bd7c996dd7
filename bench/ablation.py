"""Pretrain, probe and score many systems that differ in their targets.

For every system and seed: pretraining, a probe of the frozen encoder (bin/probe.py),
with --finetune fine-tuning of all of it; then Markdown tables. A finished step is not
repeated: run the same command again after an interruption.

Example:
    python bench/ablation.py --out exp/ablation --jobs 2 --seeds 0 1
    python bench/ablation.py --out exp/ablation --only scratch best_rq --seeds 0
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Dict, List, Optional

import yaml

from espnet2_birq.errors import DataError
from espnet2_birq.score.training_log import read_training_log

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "egs2" / "mini_librispeech"
SSL_MODEL = "valid.total_count.ave.pth"

# Columns of the tables: title, key of the last epoch's means, set, factor, format.
STATISTICS = [
    ("anchor loss, train", "loss_anchor", "train", 1, ".3f"),
    ("valid", "loss_anchor", "valid", 1, ".3f"),
    ("masked acc. %", "acc_anchor", "train", 100, ".1f"),
    ("label ppl", "label_ppl_anchor", "train", 1, ".0f"),
    ("prediction ppl", "pred_ppl_anchor", "train", 1, ".0f"),
    ("enhanced label ppl", "label_ppl_enhanced", "train", 1, ".0f"),
    ("hit rate %", "hit_enhanced", "train", 100, ".0f"),
    ("label entropy", "label_entropy_enhanced", "train", 1, ".2f"),
    ("score std", "score_std_enhanced", "train", 1, ".2f"),
    ("enhanced loss", "loss_enhanced", "train", 1, ".2f"),
]


def get_parser() -> argparse.ArgumentParser:
    """Parser of this command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, folder in (("ssl", "ssl1"), ("asr", "asr1")):
        parser.add_argument(
            f"--{name}_dump",
            type=Path,
            default=RECIPE / folder / "dump" / "raw",
            help=f"formatted data that {folder}/run.sh left, with train, valid"
            + (" and the test sets" if name == "asr" else "")
            + " (default: egs2/mini_librispeech's)",
        )
    parser.add_argument("--out", type=Path, required=True, help="folder for everything")
    parser.add_argument(
        "--systems",
        type=Path,
        default=ROOT / "bench" / "ablation.yaml",
        help="list of the systems (default: bench/ablation.yaml)",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--jobs", type=int, default=1, help="of one thread each")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="these systems, not all of the list"
    )
    parser.add_argument(
        "--finetune",
        type=int,
        default=0,
        metavar="UPDATES",
        help="fine-tune the encoders, too, for so many updates",
    )
    parser.add_argument(
        "--ssl_args", default="", help="further options of ssl_train, in one string"
    )
    return parser


def merge(base: Dict, changes: Dict) -> Dict:
    """Return base with changes: dictionaries are merged, other values replaced."""
    merged = dict(base)
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            value = merge(merged[key], value)
        merged[key] = value
    return merged


def prepare(source: Path, target: Path, limit: Optional[float], count: Optional[int]):
    """Make a data directory of a subset, and with absolute paths.

    Args:
        source: Data directory of a recipe, <recipe>/dump/raw/<set>; its paths are
            absolute or relative to the recipe.
        target: Where the new one goes: wav.scp, speech_shape and text, if there is one.
        limit: Longer utterances are left out (seconds).
        count: As many utterances are kept, evenly spread over the set.
    """
    for name in ("wav.scp", "utt2num_samples"):
        if not (source / name).is_file():
            raise DataError(f"{source / name}: no such file; run the recipe's stage 4")
    shapes = [
        line
        for line in (source / "utt2num_samples").read_text().splitlines()
        if limit is None or int(line.split()[1]) <= 16000 * limit
    ]
    if count is not None and count < len(shapes):
        shapes = [shapes[i * len(shapes) // count] for i in range(count)]
    kept = {line.split()[0] for line in shapes}
    target.mkdir(parents=True, exist_ok=True)
    (target / "speech_shape").write_text("\n".join(shapes) + "\n")
    for name in ("wav.scp", "text"):
        if name == "text" and not (source / name).is_file():
            continue
        lines = []
        for line in (source / name).read_text(encoding="utf-8").splitlines():
            utt_id, _, value = line.partition(" ")
            if name == "wav.scp":
                value = source.parents[2] / value  # an absolute path stays as it is
            if utt_id in kept:
                lines.append(f"{utt_id} {value}\n")
        (target / name).write_text("".join(lines), encoding="utf-8")


def prepare_all(args: argparse.Namespace, limits: Dict, tests: List[str]) -> Path:
    """Make all data directories, below OUT/data."""
    data = args.out.resolve() / "data"
    for name in ("ssl_train", "ssl_valid", "asr_train"):
        kind, part = name.split("_")
        dump = args.ssl_dump if kind == "ssl" else args.asr_dump
        limit = limits.get(name, {})
        limit = limit.get("max_seconds"), limit.get("utterances")
        prepare(dump.resolve() / part, data / name, *limit)
    for name in tests:
        prepare(args.asr_dump.resolve() / name, data / name, None, None)
    return data


def frame_statistics(data: Path, base: Dict, ssl_args: str) -> None:
    """Make the statistics that whitened and PCA projections of the input need."""
    if (data / "frame_statistics.npz").is_file():
        return
    # The command makes none for a configuration that has no use for them.
    anchor = {"name": "anchor", "quantizer_conf": {"projection": "pca"}}
    config = data / "statistics.yaml"
    config.write_text(yaml.safe_dump({**base, "targets": [anchor]}, sort_keys=False))
    command = ["-m", "espnet2_birq.bin.frame_statistics", "--config", config]
    command += ["--statistics", data / "frame_statistics.npz", *shlex.split(ssl_args)]
    command += data_options(data)[:2]
    run_step(data / "statistics", data / "statistics" / "log", [command], "")


def data_options(data: Path) -> List[str]:
    """Return the data options of ssl_train."""
    options = []
    for name in ("train", "valid"):
        folder = data / f"ssl_{name}"
        option = f"--{name}_data_path_and_name_and_type"
        options += [option, f"{folder}/wav.scp,speech,sound"]
        options += [f"--{name}_shape_file", f"{folder}/speech_shape"]
    return options


def run_step(folder: Path, log: Path, commands: List[List[str]], key: str) -> None:
    """Run a step's commands unless it is done.

    Args:
        folder: The step's own; emptied before the step begins.
        log: Where the output goes, below the folder.
        commands: Each a list of arguments for Python.
        key: What the step depends on. A step done with another is an error.

    Raises:
        DataError: A command failed, or the key has changed.
    """
    done = folder / "done.json"
    title = f"{folder.parent.name} {folder.name}"
    if done.is_file():
        if json.loads(done.read_text())["key"] != key:
            raise DataError(
                f"{folder}: made with another configuration; remove it, or give "
                "another --out"
            )
        say(f"{title}: already done")
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    say(f"{title}: started, {log}")
    start = time.monotonic()
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    for command in commands:
        with log.open("a") as stream:
            code = subprocess.run(
                [sys.executable, *map(str, command)],
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**os.environ, **threads, "PYTHONPATH": path},
            ).returncode
        if code:
            raise DataError(f"{title}: failed with exit status {code}, see {log}")
    seconds = round(time.monotonic() - start)
    part = done.with_suffix(".part")
    part.write_text(json.dumps({"key": key, "seconds": seconds}))
    part.rename(done)
    say(f"{title}: done in {seconds} s")


def say(line: str) -> None:
    """Print a line of progress, with the time."""
    print(time.strftime("%H:%M:%S"), line, flush=True)


def run_system(folder: Path, pretrain: Dict, context: Dict) -> None:
    """Go through all steps of one system and seed.

    Args:
        folder: OUT/<name>_seed<seed>.
        pretrain: Configuration of pretraining.
        context: data, tests, ssl_args, limits (of the data, as text), finetune (whether
            to) and scratch (the encoder stays as it is initialised).
    """
    data, tests = context["data"], context["tests"]
    folder.mkdir(parents=True, exist_ok=True)
    ssl, config = folder / "ssl", folder / "pretrain.yaml"
    config.write_text(yaml.safe_dump(pretrain, sort_keys=False))
    key = context["limits"] + config.read_text() + context["ssl_args"]
    train = ["-m", "espnet2_birq.bin.ssl_train", "--config", config, "--ngpu", "0"]
    train += ["--output_dir", ssl, *data_options(data)]
    train += ["--frame_statistics", data / "frame_statistics.npz"]
    train += shlex.split(context["ssl_args"])
    if context["scratch"]:
        train += ["--dry_run", "true", "--iterator_type", "none"]
    run_step(ssl, ssl / "train.log", [train], key)
    model = ssl / SSL_MODEL
    encoder = ["--config", ssl / "config.yaml"]
    if not context["scratch"]:
        encoder = ["--model", model]
    probe = ["-m", "espnet2_birq.bin.probe", *encoder, "--seed", str(pretrain["seed"])]
    probe += ["--train", data / "asr_train", "--out", folder / "probe", "--test"]
    probe += [data / name for name in tests]
    run_step(folder / "probe", folder / "probe" / "probe.log", [probe], key)
    if context["finetune"]:
        probe[probe.index("--out") + 1] = folder / "finetune"
        probe += ["--finetune_updates", str(context["finetune"])]
        key += f"finetune {context['finetune']}"
        run_step(folder / "finetune", folder / "finetune" / "probe.log", [probe], key)


def results(folder: Path) -> Optional[Dict]:
    """Collect what one system and seed came to; None if it is not finished."""
    if not (folder / "probe" / "done.json").is_file():
        return None
    found = {}
    for kind in ("probe", "finetune"):
        if (folder / kind / "done.json").is_file():
            probe = json.loads((folder / kind / "probe.json").read_text())
            found[kind] = probe["cer"]
    if (folder / "ssl" / SSL_MODEL).exists():
        log = read_training_log(folder / "ssl")
        found["train"], found["valid"] = log.train[-1], log.valid[-1]
        done = json.loads((folder / "ssl" / "done.json").read_text())
        found["seconds"] = done["seconds"]
    return found


def cell(values: List[Optional[float]], form: str, notes: List[str] = ()) -> str:
    """Format a mean over seeds, and the seeds' values if there are several."""
    if not values or None in values:
        return "-"
    notes = notes or [""] * len(values)
    each = [f"{value:{form}}{note}" for value, note in zip(values, notes)]
    if len(each) == 1:
        return each[0]
    return f"{sum(values) / len(values):{form}} ({'; '.join(each)})"


def make_table(rows: List, tests: List[str]) -> str:
    """Make a Markdown table.

    Args:
        rows: For each system, label and what results() gave for each finished seed.
        tests: Names of the test sets.
    """
    kinds = [
        (kind, title)
        for kind, title in (("probe", "probe CER"), ("finetune", "fine-tuned CER"))
        if any(kind in one for _, found in rows for one in found)
    ]
    titles = ["system"]
    titles += [f"{title} % {name} [95 %]" for _, title in kinds for name in tests]
    titles += [column[0] for column in STATISTICS] + ["pretraining s"]
    lines = [titles, ["---"] * len(titles)]
    for label, found in rows:
        cells = [label]
        for kind, name in ((kind, name) for kind, _ in kinds for name in tests):
            scores = [one[kind][name] for one in found if kind in one]
            notes = [" [{low:.1f}, {high:.1f}]".format(**score) for score in scores]
            cells.append(cell([score["percent"] for score in scores], ".1f", notes))
        for _, key, part, factor, form in STATISTICS:
            values = [one.get(part, {}).get(key) for one in found]
            values = [None if value is None else factor * value for value in values]
            cells.append(cell(values, form))
        cells.append(cell([one.get("seconds") for one in found], ".0f"))
        lines.append(cells)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(cmd=None):
    """Run the command; exit status 1 and a line for each system that failed."""
    args = get_parser().parse_args(cmd)
    try:
        sys.exit(run(args))
    except (DataError, OSError, yaml.YAMLError) as error:
        sys.exit(f"ablation: error: {error}")


def run(args: argparse.Namespace) -> int:
    """Run what is asked for and write OUT/tables.md and OUT/results.json."""
    setup = yaml.safe_load(args.systems.read_text(encoding="utf-8"))
    systems = {system["name"]: system for system in setup["systems"]}
    unknown = sorted(set(args.only or []) - set(systems))
    if unknown:
        raise DataError(f"--only {unknown[0]}: no such system in {args.systems}")
    base = yaml.safe_load((ROOT / setup["pretrain"]).read_text(encoding="utf-8"))
    tests = setup["tests"]
    data = prepare_all(args, setup["data"], tests)
    frame_statistics(data, base, args.ssl_args)
    context = {"data": data, "tests": tests, "ssl_args": args.ssl_args}
    context["finetune"] = args.finetune
    context["limits"] = json.dumps(setup["data"])
    failures = []

    def one(name: str, seed: int) -> None:
        changes = systems[name].get("pretrain", {})
        pretrain = {**merge(base, changes or {}), "seed": seed}
        try:
            run_system(
                folder_of(args.out, name, seed),
                pretrain,
                {**context, "scratch": changes is None},
            )
        except (DataError, OSError) as error:
            failures.append(str(error))
            say(f"error: {error}")

    # Seed by seed: an interrupted run leaves a whole table of the first.
    with ThreadPoolExecutor(args.jobs) as pool:
        for seed in args.seeds:
            for name in args.only or systems:
                pool.submit(one, name, seed)
    found = {
        name: [
            {"seed": seed, **result}
            for seed in args.seeds
            if (result := results(folder_of(args.out, name, seed)))
        ]
        for name in systems
    }
    (args.out / "results.json").write_text(json.dumps(found, indent=1))
    tables = []
    for group, title in setup["groups"].items():
        rows = [
            (system["label"], found[name])
            for name, system in systems.items()
            if group in system["groups"] and found[name]
        ]
        if rows:
            tables.append(f"{title}\n\n{make_table(rows, tests)}\n")
    (args.out / "tables.md").write_text("\n".join(tables), encoding="utf-8")
    say(f"tables: {args.out / 'tables.md'}")
    for failure in failures:
        print(f"ablation: error: {failure}", file=sys.stderr)
    return 1 if failures else 0


def folder_of(out: Path, name: str, seed: int) -> Path:
    """Return the folder of a system and seed."""
    return out.resolve() / f"{name}_seed{seed}"


if __name__ == "__main__":
    main()
