"""Prepare YODAS as ESPnet training sets."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet2_birq.bin.command import add_shared_options, make_parser, run
from espnet2_birq.bin.options.yodas import add_filters, add_selection
from espnet2_birq.corpora.yodas.prepare import SETTINGS, prepare_yodas

DESCRIPTION = """\
Prepare either release of YODAS as ESPnet training sets.

Each shard's tar file is streamed into one Kaldi archive, DEST/shards/<subset>/<shard>;
DEST/<name> and DEST/<name>_valid list its utterances in the format of ESPnet's
dump/raw/<set>, ready for training. A speaker is a video. With --hours, whole
shards are used in a random order fixed by the seed, until there is enough of each
language. DEST/<name>/manifest.jsonl records the selection; --manifest repeats it and
reports every shard that differs. DEST/<name>/skipped lists skipped items
with reasons. The command may be stopped or killed and rerun at any time: it
resumes, with the same result.

Audio with captions is used, whose times segment the videos of yodas2; the captions
are written only with --text. With --uncaptioned other audio is used as well:
videos without captions are cut at quiet places, at most --max_duration apart."""

EPILOG = """\
examples:
  # 5,000 hours of English from the hub, shards ordered by seed 0;
  # another hour, of other videos, for validation
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
    """Build the command's parser; settings stored in manifests default to None."""
    parser = make_parser("prepare_yodas", DESCRIPTION, EPILOG)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--yodas", metavar="DIR", help="a release on disk")
    source.add_argument(
        "--hub",
        choices=("yodas", "yodas2"),
        help="download this release from the Hugging Face hub, shard by shard",
    )
    add_shared_options(parser, "--dest")
    parser.add_argument("--name", default="yodas", help="name of the set")
    add_selection(parser)
    add_filters(parser)
    parser.add_argument(
        "--keep_downloads",
        action="store_true",
        help="do not remove a shard's downloads of --hub after preparation",
    )
    add_shared_options(parser, "--nj", "--dry_run")
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
