"""A stand-in for NIST sclite, for machines without it: what asr.sh calls, with jiwer.

It differs from sclite in these: it minimises the number of errors, while sclite
minimises 4 x substitutions + 3 x (deletions + insertions), so that the split into kinds
and, rarely, the total can differ; it takes "{ a / b }" and "@" as plain tokens; and it
refuses a hypothesis that lacks utterances, which sclite leaves out silently.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

from espnet2_birq.errors import DataError
from espnet2_birq.score.error_rate import (
    AlignedPair,
    Counts,
    align,
    count_pairs,
    fold_case,
    read_trn_pair,
)

USAGE = (
    "sclite [-s] [-e utf-8] [-c [NOASCII]] -r REF trn -h HYP trn -i rm -o all stdout"
)
_COLUMNS = "{:>5} {:>6} |{:>5} {:>6} {:>6} {:>6} {:>6} {:>6} |"
_TITLES = "# Snt # Wrd | Corr    Sub    Del    Ins    Err  S.Err |"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # In the place of several lines of usage and exit code 2.
        raise DataError(f"{message}; this stand-in does: {USAGE}")


def get_parser() -> argparse.ArgumentParser:
    """Build the parser of the part of sclite's command line that is supported."""
    # sclite has -h for the hypothesis.
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
        keep_ascii: Leave runs of ASCII characters in a word whole.

    Returns:
        The parts, in order.
    """
    pattern = r"[\x00-\x7f]+|." if keep_ascii else r"."
    return [part for token in tokens for part in re.findall(pattern, token)]


def speaker_of(utt_id: str) -> str:
    """Return the speaker in an id, as sclite's -i rm: what is before "-", else "_"."""
    return re.split("-" if "-" in utt_id else "_", utt_id, maxsplit=1)[0]


def make_report(hyp: str, pairs_of: dict[str, list[AlignedPair]]) -> str:
    """Write the report: percentages, counts and alignments, in the manner of sclite.

    Args:
        hyp: Name of the hypothesis file.
        pairs_of: Utterance id to alignment.

    Returns:
        Lines of text.
    """
    speakers: dict[str, dict[str, Counts]] = {}
    for utt_id, pairs in pairs_of.items():
        speakers.setdefault(speaker_of(utt_id), {})[utt_id] = count_pairs(pairs)
    lines = [
        "Computed by jiwer through espnet2_birq.score.sclite, not by NIST sclite:",
        "the split into kinds of errors can differ from sclite's, rarely their sum.",
        "",
        "                     SYSTEM SUMMARY PERCENTAGES by SPEAKER",
        "",
        *_table(hyp, speakers, "Sum/Avg", percent=True),
    ]
    if any(
        not sum(counts.values(), Counts()).ref_tokens for counts in speakers.values()
    ):
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
            lines += _alignment(utt_id, pairs_of[utt_id], count)
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exit with status 1 and one line on stderr on an error."""
    try:
        sys.stdout.write(_score(get_parser().parse_args(argv)))
    except (DataError, OSError) as error:
        sys.exit(f"sclite (jiwer stand-in): error: {error}")


def _score(args: argparse.Namespace) -> str:
    for option, (_, form) in (("-r", args.ref), ("-h", args.hyp)):
        if form != "trn":
            raise DataError(f"{option}: format {form} is unsupported; use: {USAGE}")
    if args.output != ["all", "stdout"]:
        raise DataError(f"-o {' '.join(args.output)}: unsupported output; use: {USAGE}")
    if args.chars is not None and args.encoding is None:
        raise DataError("-c: splits into bytes without an encoding; add -e utf-8")
    pairs_of = {}
    for utt_id, both in read_trn_pair(args.ref[0], args.hyp[0]).items():
        ref, hyp = (_prepare(tokens, args) for tokens in both)
        pairs = align(ref, hyp)
        if not args.case_sensitive:
            pairs = [pair if pair[0] == pair[1] else _upper(pair) for pair in pairs]
        pairs_of[utt_id] = pairs
    return make_report(args.hyp[0], pairs_of)


def _prepare(tokens: list[str], args: argparse.Namespace) -> list[str]:
    if args.chars is not None:
        tokens = split_characters(tokens, args.chars == "NOASCII")
    return tokens if args.case_sensitive else fold_case(tokens)


def _upper(pair: AlignedPair) -> AlignedPair:
    # As in sclite, errors stand out in capitals. Two different tokens stay different:
    # only their ASCII letters, which are all small here, are changed.
    return tuple(
        token and re.sub("[a-z]+", lambda match: match[0].upper(), token)
        for token in pair
    )


def _table(
    hyp: str, speakers: dict[str, dict[str, Counts]], total: str, percent: bool
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


def _row(counts: list[Counts], percent: bool) -> str:
    total = sum(counts, Counts())
    wrong = sum(count.errors > 0 for count in counts)
    values = [total.correct, total.sub, total.del_, total.ins, total.errors]
    if not percent:
        cells = [*values, wrong]
    elif total.ref_tokens:
        cells = [f"{100 * value / total.ref_tokens:.1f}" for value in values]
        cells.append(f"{100 * wrong / len(counts):.1f}")
    else:
        cells = [f"{value}*" for value in values]
        cells.append(f"{100 * wrong / len(counts):.1f}")
    return _COLUMNS.format(len(counts), total.ref_tokens, *cells)


def _alignment(utt_id: str, pairs: list[AlignedPair], count: Counts) -> list[str]:
    lines = {"REF: ": "", "HYP: ": "", "Eval:": ""}
    for ref, hyp in pairs:
        kind = "I" if ref is None else "D" if hyp is None else "S" if ref != hyp else ""
        size = max(len(ref or ""), len(hyp or ""))
        cells = (ref or "*" * size, hyp or "*" * size, kind)
        for title, cell in zip(lines, cells, strict=True):
            lines[title] += f" {cell:<{size}}"
    scores = f"{count.correct} {count.sub} {count.del_} {count.ins}"
    return [
        "",
        f"id: ({utt_id})",
        f"Scores: (#C #S #D #I) {scores}",
        *(f"{title}{line}".rstrip() for title, line in lines.items()),
    ]
