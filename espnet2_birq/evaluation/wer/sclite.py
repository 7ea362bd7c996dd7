"""Stand-in for NIST sclite, with the options that asr.sh uses.

Alignments and totals equal sclite's. There are two differences: "{ a / b }" and ";" are
plain tokens, and a hypothesis without some utterances is an error, where sclite silently
ignores them.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

import numpy as np

from espnet2_birq.errors import DataError
from espnet2_birq.evaluation.wer.alignment import (
    CORRECT,
    NULL,
    AlignedPair,
    count_steps,
    pair_tokens,
    steps_of,
)
from espnet2_birq.evaluation.wer.transcripts import fold_case, read_pair

USAGE = (
    "sclite [-s] [-e utf-8] [-c [NOASCII]] -r REF trn -h HYP trn -i rm -o all stdout"
)
_COLUMNS = "{:>5} {:>6} |{:>5} {:>6} {:>6} {:>6} {:>6} {:>6} |"
_TITLES = "# Snt # Wrd | Corr    Sub    Del    Ins    Err  S.Err |"
# Pairs of tokens, and their steps as in alignment.py.
Aligned = tuple[list[AlignedPair], np.ndarray]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # Instead of argparse's usage lines and exit code 2.
        raise DataError(f"{message}; this stand-in does: {USAGE}")


def get_parser() -> argparse.ArgumentParser:
    """Build the parser of the supported part of sclite's command line."""
    # In sclite, -h is the hypothesis.
    parser = _Parser(prog="sclite", add_help=False, allow_abbrev=False)
    parser.add_argument("-r", nargs=2, required=True, dest="ref")
    parser.add_argument("-h", nargs=2, required=True, dest="hyp")
    parser.add_argument("-i", choices=("rm",), required=True)
    parser.add_argument("-o", nargs=2, required=True, dest="output")
    parser.add_argument("-s", action="store_true", dest="case_sensitive")
    parser.add_argument("-e", choices=("utf-8",), dest="encoding")
    parser.add_argument(
        "-c", nargs="?", const="", choices=("", "NOASCII"), dest="chars"
    )
    return parser


def split_characters(tokens: Sequence[str], keep_ascii: bool) -> list[str]:
    """Split tokens into characters.

    Args:
        tokens: Words.
        keep_ascii: Whether to keep runs of ASCII characters in one piece.

    Returns:
        Characters or runs, in order.
    """
    pattern = r"[\x00-\x7f]+|." if keep_ascii else r"."
    return [part for token in tokens for part in re.findall(pattern, token)]


def speaker_of(utt_id: str) -> str:
    """Return an id's part before "-", else before "_": sclite's speaker for -i rm."""
    return re.split("-" if "-" in utt_id else "_", utt_id, maxsplit=1)[0]


def summary_cells(counts: np.ndarray) -> list[str]:
    """Format counts of utterances as the columns Snt to S.Err of sclite's summary."""
    correct, sub, del_, ins = counts.sum(axis=0).tolist()
    tokens = correct + sub + del_
    shares = [
        percent_text(number, tokens)
        for number in (correct, sub, del_, ins, sub + del_ + ins)
    ]
    wrong = int((counts[:, 1:].sum(axis=1) > 0).sum())
    return [str(len(counts)), str(tokens), *shares, percent_text(wrong, len(counts))]


def percent_text(number: int, total: int) -> str:
    """Format a share in percent, rounded as sclite does: 6.25 to 6.3."""
    return f"{int(number / total * 1000 + 0.5) / 10:.1f}"


def make_report(hyp: str, aligned: dict[str, Aligned]) -> str:
    """Format a report like sclite's, with percentages, counts and alignments.

    Args:
        hyp: Name of the hypothesis file.
        aligned: Mapping from utterance id to alignment.

    Returns:
        Text of the report.
    """
    speakers: dict[str, dict[str, np.ndarray]] = {}
    for utt_id, (_, steps) in aligned.items():
        speakers.setdefault(speaker_of(utt_id), {})[utt_id] = count_steps(steps)
    lines = [
        "Computed by espnet2_birq.evaluation.wer.sclite, not by NIST sclite.",
        "",
        "                     SYSTEM SUMMARY PERCENTAGES by SPEAKER",
        "",
        *_table(hyp, speakers, "Sum/Avg", percent=True),
    ]
    if any(not np.stack([*x.values()])[:, :3].any() for x in speakers.values()):
        lines += ["* no reference words: counts in the place of percentages"]
    lines += [
        "",
        "                        SYSTEM SUMMARY COUNTS by SPEAKER",
        "",
        *_table(hyp, speakers, "Sum", percent=False),
        "",
        "\t\tALIGNMENTS",
    ]
    for speaker, counts in speakers.items():
        lines += ["", f"Speaker {speaker}   #utts: {len(counts)}"]
        for utt_id, count in counts.items():
            lines += _alignment(utt_id, aligned[utt_id], count)
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exit with status 1 and one line on stderr on an error."""
    try:
        sys.stdout.write(_score(get_parser().parse_args(argv)))
    except (DataError, OSError) as error:
        sys.exit(f"sclite (stand-in): error: {error}")


def _score(args: argparse.Namespace) -> str:
    for option, (_, form) in (("-r", args.ref), ("-h", args.hyp)):
        if form != "trn":
            raise DataError(f"{option}: format {form} is unsupported; use: {USAGE}")
    if args.output != ["all", "stdout"]:
        raise DataError(f"-o {' '.join(args.output)}: unsupported output; use: {USAGE}")
    if args.chars is not None and args.encoding is None:
        raise DataError("-c: splits into bytes without an encoding; add -e utf-8")
    aligned = {}
    texts = read_pair(args.ref[0], args.hyp[0], is_trn=True)
    for utt_id, *both in zip(*texts, strict=True):
        ref, hyp = (_prepare(text, args) for text in both)
        steps = steps_of(ref, hyp)
        pairs = pair_tokens(ref, hyp, steps)
        if not args.case_sensitive:
            pairs = [
                pair if step == CORRECT else _upper(pair)
                for pair, step in zip(pairs, steps, strict=True)
            ]
        aligned[utt_id] = pairs, steps
    return make_report(args.hyp[0], aligned)


def _prepare(text: str, args: argparse.Namespace) -> list[str]:
    text = text if args.case_sensitive else fold_case(text)
    tokens = [token for token in text.split() if token != NULL]
    if args.chars is not None:
        tokens = split_characters(tokens, args.chars == "NOASCII")
    return tokens


def _upper(pair: AlignedPair) -> AlignedPair:
    # As in sclite, errors are in capitals. Different tokens stay different, since only
    # ASCII letters change, and these are all lower-case here.
    ref, hyp = (
        token and re.sub("[a-z]+", lambda match: match[0].upper(), token)
        for token in pair
    )
    return ref, hyp


def _table(
    hyp: str, speakers: dict[str, dict[str, np.ndarray]], total: str, percent: bool
) -> list[str]:
    width = max(len(name) for name in [*speakers, total, "SPKR"])
    rule = f"       |{'-' * (width + 2)}+-------------+{'-' * 41}|"
    inner = len(rule) - len("       ||")
    double = f"       |{'=' * inner}|"
    lines = [
        f"       ,{'-' * inner}.",
        f"       |{hyp:^{inner}}|",
        f"       |{'-' * inner}|",
        f"       | {'SPKR':<{width}} | {_TITLES}",
    ]
    for speaker, counts in speakers.items():
        row = _row(list(counts.values()), percent)
        lines += [rule, f"       | {speaker:<{width}} |{row}"]
    row = _row([c for counts in speakers.values() for c in counts.values()], percent)
    return [
        *lines,
        double,
        f"       | {total:<{width}} |{row}",
        f"       `{'-' * inner}'",
    ]


def _row(counts: list[np.ndarray], percent: bool) -> str:
    correct, sub, del_, ins = np.sum(counts, axis=0).tolist()
    tokens, errors = correct + sub + del_, sub + del_ + ins
    wrong = sum(bool(count[1:].any()) for count in counts)
    values = [correct, sub, del_, ins, errors]
    if not percent:
        cells = [len(counts), tokens, *values, wrong]
    elif tokens:
        cells = summary_cells(np.stack(counts))
    else:
        cells = [len(counts), 0, *(f"{value}*" for value in values)]
        cells.append(percent_text(wrong, len(counts)))
    return _COLUMNS.format(*cells)


def _alignment(utt_id: str, aligned: Aligned, count: np.ndarray) -> list[str]:
    lines = {"REF: ": "", "HYP: ": "", "Eval:": ""}
    for (ref, hyp), step in zip(*aligned, strict=True):
        size = max(len(ref or ""), len(hyp or ""))
        cells = (ref or "*" * size, hyp or "*" * size, " SDI"[step])
        for title, cell in zip(lines, cells, strict=True):
            lines[title] += f" {cell:<{size}}"
    return [
        "",
        f"id: ({utt_id})",
        f"Scores: (#C #S #D #I) {' '.join(map(str, count.tolist()))}",
        *(f"{title}{line}".rstrip() for title, line in lines.items()),
    ]
