"""Score decoded sets: WER, CER, confidence intervals, comparisons, meetings."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet2_birq.bin.command import make_parser, run
from espnet2_birq.errors import ConfigError
from espnet2_birq.evaluation.wer.grouping import CLUSTERS
from espnet2_birq.evaluation.wer.normalization import NORMALIZATIONS, get_normalization

DESCRIPTION = """\
Tabulate word and character error rates (WER, CER) with 95 % confidence intervals, or
compare two systems.

Reads the output of stage 13 of asr.sh, ref.trn and hyp.trn in
ASR_EXP_DIR/<decoding>/<set>/score_wer and score_cer, or with --ref plain text
files: Kaldi text, or trn by the suffix. Error counts equal those of NIST's sclite,
alignment for alignment. Intervals are bootstrapped over meetings (AMI), else speakers
if there are 5, else utterances: they cover the choice of test data, not the variation
between training runs. See docs/scoring.md."""

EPILOG = """\
examples:
  python -m espnet2_birq.bin.score exp/asr_birq exp/asr_scratch
  python -m espnet2_birq.bin.score --ref data/test/text --hyp text.a text.b
  python -m espnet2_birq.bin.score --compare exp/asr_scratch exp/asr_birq
  python -m espnet2_birq.bin.score --ref data/test/text --compare text.a text.b
  python -m espnet2_birq.bin.score exp/ihm/asr_birq --by overlap --normalize kaldi
  python -m espnet2_birq.bin.score exp/ihm/asr_birq --meeting
  python -m espnet2_birq.bin.score --ref data/ihm_eval/stm --hyp mine.stm --meeting"""


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = make_parser("score", DESCRIPTION, EPILOG)
    add = parser.add_argument
    add("experiments", nargs="*", type=Path, metavar="ASR_EXP_DIR")
    add("--ref", type=Path, metavar="FILE", help="reference of --hyp or --compare")
    add("--hyp", nargs="+", type=Path, metavar="FILE", help="hypotheses, with --ref")
    add(
        "--compare",
        nargs=2,
        type=Path,
        metavar=("A", "B"),
        help="test whether B differs from A: two experiments, or with --ref two files",
    )
    add(
        "--by",
        metavar="GROUP",
        help="also a row per group: speaker, meeting, microphone, overlap (from "
        "AMI's ids), or a file of lines `utterance group`",
    )
    add("--meeting", action="store_true", help="cpWER and tcpWER by meeteval")
    add("--results_md", action="store_true", help="tables of ESPnet's RESULTS.md")
    add(
        "--normalize",
        choices=NORMALIZATIONS,
        default="none",
        help="normalise reference and hypothesis: kaldi (AMI's glm: hesitations are "
        "optional; no CER), whisper (OpenAI's English normaliser), none (default)",
    )
    add(
        "--case_sensitive",
        action="store_true",
        help='distinguish "a" and "A"; by default they match, as in sclite without -s',
    )
    add("--cluster", choices=CLUSTERS, help="unit of resampling (default: see above)")
    add(
        "--data",
        type=Path,
        metavar="DIR",
        help="data directory of the set, if ids do not contain speakers (utt2spk), "
        "meetings and times (segments)",
    )
    add("--json", action="store_true", help="print JSON instead of a table")
    return parser


def score(args: argparse.Namespace) -> None:
    """Run the command."""
    from espnet2_birq.evaluation.wer.experiments import Options
    from espnet2_birq.evaluation.wer.report import report_comparison, report_sets

    _check(args)
    normalization = get_normalization(args.normalize, args.case_sensitive)
    options = Options(normalization, args.cluster, args.data, args.by)
    if args.compare:
        a, b = args.compare
        print(report_comparison(a, b, args.ref, options, args.json))
        return
    own = {"meeting": args.meeting, "results_md": args.results_md, "as_json": args.json}
    print(report_sets(args.experiments, args.ref, args.hyp or (), options, **own))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exit with status 1 and one line on stderr on an error."""
    run(score, get_parser().parse_args(argv))


def _check(args: argparse.Namespace) -> None:
    if args.compare and (args.experiments or args.hyp or args.by or args.meeting):
        raise ConfigError(
            "--compare: only --ref, --normalize, --cluster, --data and --json go with it"
        )
    if args.hyp and not args.ref:
        raise ConfigError("--hyp: needs its reference by --ref")
    if args.ref and not (args.hyp or args.compare):
        raise ConfigError("--ref: needs --hyp or --compare")
    if not (args.compare or args.experiments or args.hyp):
        raise ConfigError("nothing to score; give ASR_EXP_DIR, --ref and --hyp, or -h")
    for name in ("compare", "meeting", "by", "json", "cluster", "data"):
        if args.results_md and getattr(args, name):
            raise ConfigError(f"--results_md: not with --{name}")
    if args.meeting and (args.by or args.cluster):
        raise ConfigError("--meeting: resamples meetings; not with --by or --cluster")


if __name__ == "__main__":
    main()
