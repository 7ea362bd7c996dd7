"""Prepare YODAS as sets that ESPnet trains on."""

import argparse
import hashlib
import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path

from tqdm import tqdm

from espnet2_birq import __version__
from espnet2_birq.bin.command import add_shared_options, make_parser, run
from espnet2_birq.corpora.yodas import selection
from espnet2_birq.corpora.yodas.corpus import Request, candidates, make_sets
from espnet2_birq.corpora.yodas.layout import Shard
from espnet2_birq.corpora.yodas.sets import MANIFEST, SetSize, check_replaceable
from espnet2_birq.corpora.yodas.source import FolderSource, HubSource
from espnet2_birq.corpora.yodas.store import ShardStore, Source
from espnet2_birq.corpora.yodas.writer import ShardOptions, allowed_captions
from espnet2_birq.errors import DataError
from espnet2_birq.options import finite, positive

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

LOG_INTERVAL = 60  # seconds between lines of progress where there is no terminal
# What a manifest repeats; the default is None where the choice must be the user's.
SETTINGS = {
    "parts": None,
    "hours": math.inf,
    "valid_hours": 1.0,
    "seed": 0,
    **asdict(ShardOptions()),
}


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
    _add_selection(parser)
    _add_filters(parser)
    parser.add_argument(
        "--fs", type=int, metavar="HZ", help=_help("sample rate to write", "fs")
    )
    parser.add_argument(
        "--audio-format",
        choices=("flac.ark", "wav.ark"),
        help=_help("of the archives; FLAC is about half as large", "audio_format"),
    )
    parser.add_argument(
        "--keep-downloads",
        action="store_true",
        help="do not remove what --hub downloaded of a shard when it is prepared",
    )
    add_shared_options(parser, "--nj", "--dry-run")
    return parser


def prepare(args: argparse.Namespace) -> None:
    """Run the command.

    Args:
        args: What get_parser() parsed.

    Raises:
        DataError: The request or the corpus is wrong. Prepared shards stay.
    """
    train = Path(args.dest).absolute() / args.name
    if any(character.isspace() for character in str(train)):
        raise DataError(f"{train}: give a --dest and a --name without spaces")
    head, lines = selection.read_manifest(args.manifest) if args.manifest else ({}, [])
    settings = _settle(args, head)
    options = ShardOptions(**{f.name: settings[f.name] for f in fields(ShardOptions)})
    store = train.with_name("shards")
    source = _open_source(args, store, head)
    request = Request(
        *(settings[key] for key in ("parts", "hours", "valid_hours", "seed")),
        head=head or _head(source, settings),
        lines=lines,
    )
    shards = candidates(source, request)
    if args.dry_run:
        _print_plan(source, shards, request)
        return
    valid = train.with_name(f"{args.name}_valid") if request.valid_hours else None
    for path in filter(None, (train, valid)):
        check_replaceable(path)
    with (
        ShardStore(store, options) as opened,
        tqdm(total=len(shards), unit="shard", disable=None) as bar,
    ):
        report = _reporter(bar, 3600 * options.fs)
        chosen, sizes = make_sets(
            opened, source, shards, request, train, valid, args.nj, report
        )
    source.close()
    _print_summary(chosen, sizes, request, 3600 * options.fs)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exit with status 1 and one line on stderr on an error."""
    run(prepare, get_parser().parse_args(argv))


def _help(text: str, setting: str) -> str:
    return f"{text} (default: {SETTINGS[setting]})"


def _add_selection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--parts",
        nargs="+",
        metavar="PART",
        help="languages (en), subsets (en000) or shards (en000/00000001)",
    )
    parser.add_argument(
        "--hours",
        type=positive,
        metavar="N",
        help="stop when there is so much of each language (default: use all)",
    )
    parser.add_argument(
        "--valid-hours",
        type=_not_negative,
        metavar="N",
        help=_help(
            "hold out whole videos for NAME_valid until they last so long; 0: no such "
            "set",
            "valid_hours",
        ),
    )
    parser.add_argument(
        "--seed",
        type=int,
        metavar="N",
        help=_help("of the shards' order and the videos that are held out", "seed"),
    )
    parser.add_argument(
        "--manifest",
        type=Path,
        metavar="FILE",
        help="repeat what this manifest.jsonl says",
    )


def _add_filters(parser: argparse.ArgumentParser) -> None:
    # None, not False, where the option is not given: a manifest's value holds then.
    parser.add_argument(
        "--text",
        action="store_const",
        const=True,
        help="write captions; leave out utterances whose caption is empty",
    )
    parser.add_argument(
        "--uncaptioned",
        action="store_const",
        const=True,
        help="use audio that has no caption, too; not with --text",
    )
    parser.add_argument(
        "--characters",
        action="append",
        type=_characters,
        metavar="LANG=CHARS",
        help="with --text, leave out captions of this language with other characters, "
        "given as in the brackets of a regular expression: en=a-zA-Z',.?; may be given "
        "for several languages",
    )
    for option, kind, text in (
        ("--min-duration", positive, "leave out shorter utterances (seconds)"),
        ("--max-duration", positive, "leave out longer utterances (seconds)"),
        ("--min-level", finite, "leave out quieter utterances (dB below full scale)"),
    ):
        setting = option.removeprefix("--").replace("-", "_")
        parser.add_argument(option, type=kind, metavar="N", help=_help(text, setting))


def _settle(args: argparse.Namespace, head: dict) -> dict:
    settings = {}
    for key, default in SETTINGS.items():
        given = getattr(args, key)
        if key == "characters" and given is not None:
            given = dict(given)
        if head:
            settings[key] = math.inf if head.get(key) is None else head[key]
            if given is not None and given != settings[key]:
                raise DataError(
                    f"--manifest says {key} {head.get(key)}, the command line {given}; "
                    "give one of the two"
                )
        else:
            settings[key] = default if given is None else given
    if not settings["parts"]:
        raise DataError("--parts is required, for example --parts en; or --manifest")
    if settings["text"] and settings["uncaptioned"]:
        raise DataError("--text and --uncaptioned exclude each other; give one")
    if settings["characters"] and not settings["text"]:
        raise DataError("--characters wants --text: captions are not used without it")
    if not settings["min_duration"] < settings["max_duration"]:
        raise DataError("--min-duration is not below --max-duration; correct one")
    return settings


def _open_source(args: argparse.Namespace, store: Path, head: dict) -> Source:
    if args.yodas:
        return FolderSource(args.yodas)
    folder = store / f"downloads_{args.hub}"
    return HubSource(args.hub, folder, args.keep_downloads, head.get("revision"))


def _head(source: Source, settings: dict) -> dict:
    head = {"corpus": "YODAS", "version": __version__, "revision": source.revision}
    for key, value in settings.items():
        head[key] = None if value == math.inf else value
    return head


def _print_plan(source: Source, shards: list[Shard], request: Request) -> None:
    hours: dict[str, float] = {}
    for shard in shards:
        if hours.setdefault(shard.language, 0.0) < request.limit:
            of_shard = source.seconds(shard) / 3600
            hours[shard.language] += of_shard
            print(f"{shard}: {of_shard:.2f} hours by its duration file")
    for language, sum_of in hours.items():
        print(f"{language}: {sum_of:.2f} hours before filters, of {source}")
    print("dry run: nothing was written")


def _reporter(bar: tqdm, hour: int) -> Callable[[Shard, int], None]:
    used, said = 0, time.monotonic()

    def report(shard: Shard, samples: int) -> None:
        nonlocal used, said
        used += samples
        bar.update()
        bar.set_postfix_str(f"{used / hour:.1f} hours")
        # Where there is no terminal to draw a bar on, a line now and then.
        if bar.disable and time.monotonic() - said > LOG_INTERVAL:
            said = time.monotonic()
            print(f"{shard} is done, {used / hour:.1f} hours", flush=True)

    return report


def _print_summary(
    chosen: selection.Selection, sizes: dict[Path, SetSize], request: Request, hour: int
) -> None:
    for reason, sums in sorted(chosen.skipped.items()):
        print(
            f"skipped {sums['count']} x {reason} ({sums['seconds'] / 3600:.2f} hours); "
            f"first: {sums['first']}"
        )
    for language, samples in sorted(chosen.samples.items()):
        if samples / hour < request.limit < math.inf:
            print(f"{language}: there are only {samples / hour:.2f} hours")
    for path, size in sizes.items():
        print(
            f"{path}: {size.utterances} utterances, {size.speakers} speakers (videos), "
            f"{size.samples / hour:.2f} hours"
        )
    train = next(iter(sizes))
    digest = hashlib.sha256((train / MANIFEST).read_bytes()).hexdigest()
    print(
        f"{train}: of {len(chosen.shards)} shards; {MANIFEST} has SHA-256 {digest[:16]}"
    )


def _not_negative(value: str) -> float:
    return 0.0 if finite(value) == 0 else positive(value)


def _characters(value: str) -> tuple[str, str]:
    language, _, characters = value.partition("=")
    try:
        allowed_captions(characters)
        if not (language and characters):
            raise re.error("empty")
    except re.error as error:
        raise argparse.ArgumentTypeError(
            f"{value!r} is not LANG=CHARS, as in en=a-z"
        ) from error
    return language, characters


if __name__ == "__main__":
    main()
