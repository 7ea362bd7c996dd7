"""Prepare YODAS as sets that ESPnet trains on."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet2_birq.bin.command import add_shared_options, make_parser, run
from espnet2_birq.bin.options.yodas import add_filters, add_selection
from espnet2_birq.corpora.yodas.prepare import SETTINGS, prepare_yodas

DESCRIPTION = """\
Prepare YODAS, either release, as sets that ESPnet trains on.

Each shard's tar file is streamed into one Kaldi archive, DEST/shards/<subset>/<shard>;
DEST/<name> and DEST/<name>_valid are lists of its utterances, with all that ESPnet's
dump/raw/<set> has: train on them as they are. A speaker is a video. With --hours, whole
shards are used in a random order that the seed fixes, until there is enough of each
language. DEST/<name>/manifest.jsonl says what was used; --manifest repeats it and
complains of every shard that is not the same. DEST/<name>/skipped lists what was left
out, and why. The command may be stopped, or killed, and repeated at any time: it goes
on where it was, and the result is the same.

Audio that is used has a caption, whose times cut the videos of yodas2; the captions
themselves are written with --text only. With --uncaptioned other audio is used as well:
a video without captions is cut at quiet places, --max-duration apart at most."""

EPILOG = """\
examples:
  # 5,000 hours of English from the hub, of the shards that seed 0 begins with;
  # an hour more, of other videos, for validation
  python -m espnet2_birq.bin.prepare_yodas --hub yodas --parts en --hours 5000 \\
      --dest dump/raw --name en_5000h --nj 16

  # The same again, from a copy on disk
  python -m espnet2_birq.bin.prepare_yodas --yodas /corpora/yodas --dest dump/raw \\
      --name again --manifest en_5000h.jsonl

  # At most 100 hours of each of three languages, one of them with manual captions only
  python -m espnet2_birq.bin.prepare_yodas --yodas /corpora/yodas2 --dest dump/raw \\
      --parts de000 fr ja --hours 100 --text --characters "fr=a-zàâçéèêëîïôùûüÿœ'"

files in DEST/<name>: wav.scp, utt2num_samples, utt2spk, spk2utt, feats_type,
  audio_format, manifest.jsonl, skipped; text with --text; category2utt (language to
  utterances, for ESPnet's category sampler) if there are several languages."""


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser. Settings that a manifest repeats default to None."""
    parser = make_parser("prepare_yodas", DESCRIPTION, EPILOG)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--yodas", metavar="DIR", help="a release on disk")
    source.add_argument(
        "--hub",
        choices=("yodas", "yodas2"),
        help="download this release from the Hugging Face hub, shard by shard",
    )
    add_shared_options(parser, "--dest")
    parser.add_argument(
        "--name", default="yodas", help="of the training set (default: %(default)s)"
    )
    add_selection(parser)
    add_filters(parser)
    parser.add_argument(
        "--keep-downloads",
        action="store_true",
        help="do not remove what --hub downloaded of a shard when it is prepared",
    )
    add_shared_options(parser, "--nj", "--dry-run")
    return parser


def prepare(args: argparse.Namespace) -> None:
    """Run the command."""
    options = {setting: getattr(args, setting) for setting in SETTINGS}
    if args.characters is not None:
        options["characters"] = dict(args.characters)
    prepare_yodas(
        Path(args.dest, args.name),
        options,
        args.yodas,
        args.hub,
        manifest=args.manifest,
        keep_downloads=args.keep_downloads,
        nj=args.nj,
        dry_run=args.dry_run,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exit with status 1 and one line on stderr on an error."""
    run(prepare, get_parser().parse_args(argv))


if __name__ == "__main__":
    main()
