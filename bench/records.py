"""Keep the measurements of a matrix, and print the tables of docs/evidence.md.

    python bench/records.py keep branches --out exp/branches
    python bench/records.py table branches best_rq_long w1_03_long --seeds 1 2
    python bench/records.py differences branches w1_03_long:best_rq_long --seeds 1 2
    python bench/records.py errors relatives best_rq_19 birq --seeds 0 1
    python bench/records.py error_differences relatives birq:best_rq_19 --seeds 0 1

`keep COMPARISON` copies OUT/phones of `python -m espnet2_birq.bin.matrix ... --out OUT` into
docs/evidence/phones.jsonl, one line for each system and seed, and the character errors of
probes and fine-tuned models by speaker into errors.jsonl, so that further seeds can be
compared later without the models. Those of the same comparison, system and seed are replaced.
`table` prints the mean over seeds of each layer's accuracy, of the highest PNMI of a layer,
and of PNMI and perplexity of the last objective's labels, over its codebooks.
`differences` prints differences of accuracies, paired by speaker and seed, with 95 % bootstrap
intervals over both (one seed: over speakers). `errors` and `error_differences` do the same
for character error rates, in % and points, of all that was decoded. In documents, a comment
with the words after `records.py` stands before each such table, and a test compares both.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import error_records  # noqa: E402
from error_records import pair_of, read_lines, signed, write_lines  # noqa: E402

from espnet2_birq.errors import DataError  # noqa: E402
from espnet2_birq.evaluation.markdown import markdown_table  # noqa: E402
from espnet2_birq.experiments.phone_tables import (  # noqa: E402
    BEST,
    accuracies,
    difference,
)
from espnet2_birq.options import Parser  # noqa: E402
from espnet2_birq.reading import read_json  # noqa: E402

FILE = ROOT / "docs" / "evidence" / "phones.jsonl"
LAYERS = (2, 4, 5, 6, 8)  # of differences
ENDS = ["PNMI, best layer", "labels: PNMI, codes in use"]

Records = dict[tuple[str, str, int], dict]  # by comparison, system and seed


def read_records(path: Path = FILE) -> Records:
    """Read kept measurements, as phone_probe wrote them but without what is not needed."""
    records = {}
    for one in read_lines(path):
        key = one.pop("comparison"), one.pop("system"), one.pop("seed")
        records[key] = {"models": [one]}
    return records


def keep(comparison: str, out: Path, path: Path = FILE) -> int:
    """Copy a matrix's phone measurements into a file of records.

    Args:
        comparison: Name of the comparison.
        out: Output folder of the matrix.
        path: File of records, made if needed.

    Returns:
        Number of measurements copied.
    """
    records = read_records(path)
    found = sorted((out / "phones").glob("*_seed*.json"))
    for file in found:
        system, seed = re.fullmatch(r"(.+)_seed(\d+)", file.stem).groups()
        (model,) = read_json(file)["models"]
        records[comparison, system, int(seed)] = {"models": [_shorten(model)]}
    write_lines(
        path,
        (
            {"comparison": name, "system": system, "seed": seed, **one["models"][0]}
            for (name, system, seed), one in sorted(records.items())
        ),
    )
    return len(found)


def _shorten(model: dict) -> dict:
    layers = [
        {
            "layer": one["layer"],
            "pnmi": round(one["pnmi"], 4),
            "accuracy": {
                "speakers": {
                    speaker: round(value, 5)
                    for speaker, value in sorted(one["accuracy"]["speakers"].items())
                }
            },
        }
        for one in model["layers"]
    ]
    objectives = [
        {
            "name": one["name"],
            "books": [
                {key: round(book[key], 4) for key in ("pnmi", "perplexity")}
                for book in one["books"]
            ],
        }
        for one in model["objectives"]
    ]
    return {"layers": layers, "objectives": objectives}


def _select(records: Records, comparison: str, system: str, seeds: Sequence[int]):
    missing = [seed for seed in seeds if (comparison, system, seed) not in records]
    if missing:
        raise DataError(
            f"no record of {comparison}, {system}, seed {missing[0]}: run the matrix, then "
            "'records.py keep'"
        )
    return {seed: records[comparison, system, seed] for seed in seeds}


def table(
    records: Records, comparison: str, seeds: Sequence[int], systems: Sequence[str]
) -> list[list[str]]:
    """Make a row for each system: its name, number of seeds, layers, PNMI, labels."""
    rows = []
    for system in systems:
        chosen = _select(records, comparison, system, seeds)
        each = [accuracies(one) for one in chosen.values()]
        row = [system, str(len(seeds))]
        row += [_short(np.mean([one[k].mean() for one in each])) for k in each[0]]
        models = [one["models"][0] for one in chosen.values()]
        best = [max(x["pnmi"] for x in one["layers"] if x["layer"]) for one in models]
        row.append(_short(np.mean(best)))
        labels = ""
        if models[0]["objectives"]:
            books = [book for one in models for book in one["objectives"][-1]["books"]]
            pnmi = np.mean([book["pnmi"] for book in books])
            labels = f"{_short(pnmi)}, {np.mean([x['perplexity'] for x in books]):.0f}"
        rows.append([*row, labels])
    return rows


def differences(
    records: Records, comparison: str, seeds: Sequence[int], pairs: Sequence[str]
) -> list[list[str]]:
    """Make a row for each pair OWN:OTHER: its name, number of seeds, differences."""
    rows = []
    for pair in pairs:
        names = pair_of(pair)
        found = difference(
            *(_select(records, comparison, name, seeds) for name in names)
        )
        row = [" minus ".join(names), str(found.seeds)]
        for column in (*LAYERS, BEST):
            ends = ", ".join(signed(x, 3) for x in found.ends[column])
            row.append(f"{signed(found.means[column], 3)} [{ends}]")
        rows.append(row)
    return rows


def _short(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = Parser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("action", choices=("keep", *ACTIONS))
    add("comparison", help="name of the comparison, such as branches")
    add("names", nargs="*", help="systems, or pairs OWN:OTHER")
    add("--out", type=Path, help="output folder of the matrix, for keep")
    add("--seeds", type=int, nargs="+", default=[0], help="seeds (default: 0)")
    add("--only", default="", help="of error rates: what begins so, such as frozen")
    return parser


ACTIONS = {
    "table": (read_records, table),
    "differences": (read_records, differences),
    "errors": (error_records.read_records, error_records.errors),
    "error_differences": (error_records.read_records, error_records.error_differences),
}


def rows_of(args: argparse.Namespace) -> list[list[str]]:
    """Make the rows of a table from the records."""
    read, make = ACTIONS[args.action]
    more = [args.only] if args.action.startswith("error") else []
    return make(read(), args.comparison, args.seeds, args.names, *more)


def main() -> None:
    """Run the command; exit with status 1 and one line on stderr on failure."""
    parser = get_parser()
    args = parser.parse_args()
    if (args.action == "keep") != (args.out is not None):
        parser.error("keep needs --out, and only keep takes it")
    try:
        if args.action == "keep":
            phones = keep(args.comparison, args.out)
            decoded = error_records.keep(args.comparison, args.out)
            if not phones + decoded:
                raise DataError(f"{args.out}: no measurements; give --out of a matrix")
            print(f"{phones} phone measurements kept in {FILE}")
            print(f"{decoded} decoded sets kept in {error_records.FILE}")
            return
        rows = rows_of(args)
    except (DataError, OSError) as error:
        sys.exit(f"records.py: error: {error}")
    if args.action.startswith("error"):
        columns = error_records.columns(
            error_records.read_records(), args.comparison, args.only
        )
    else:
        columns = {
            "table": ["seeds", *map(str, range(len(rows[0]) - 4)), *ENDS]
            if rows
            else [],
            "differences": ["seeds", *map(str, LAYERS), BEST],
        }[args.action]
    print(markdown_table(["", *columns], rows))


if __name__ == "__main__":
    main()
