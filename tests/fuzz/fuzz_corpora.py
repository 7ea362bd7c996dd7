"""Readers of corpora: AMI's annotation, YODAS's shards, LibriSpeech, mini AN4."""

import gzip
import io
import json
import tarfile
from functools import partial

from fuzz_datadir import audio
from fuzzing import Reader

from espnet2_birq.corpora.ami import annotation
from espnet2_birq.corpora.ami.corpus import MICROPHONES, cut_sets
from espnet2_birq.corpora.ami.partitions import read_partition
from espnet2_birq.corpora.ami.scoring import make_stm
from espnet2_birq.corpora.an4 import read_an4, unpack_an4
from espnet2_birq.corpora.librispeech import prepare_librispeech
from espnet2_birq.corpora.yodas import layout
from espnet2_birq.corpora.yodas.corpus import Request, candidates
from espnet2_birq.corpora.yodas.prepare import prepare_yodas
from espnet2_birq.corpora.yodas.selection import read_manifest
from espnet2_birq.corpora.yodas.shard import prepare_shard
from espnet2_birq.corpora.yodas.source import FolderSource
from espnet2_birq.corpora.yodas.writer import ShardOptions

HEAD = (
    '<?xml version="1.0" encoding="ISO-8859-1"?>\n<nite:root nite:id="r" '
    'xmlns:nite="http://nite.sourceforge.net/">'
)
MEETINGS = (
    HEAD + '<meeting observation="ES2011a"><speaker nxt_agent="A" '
    'global_name="FEE041" channel="0"/><speaker nxt_agent="B" global_name="FEE042" '
    'channel="1"/></meeting></nite:root>'
)


def _words(letter: str) -> str:
    who = f"ES2011a.{letter}"
    return (
        HEAD + f'<w nite:id="{who}.w0" starttime="1.0" endtime="1.5">caf\xe9</w>'
        f'<w nite:id="{who}.w1" starttime="1.5" endtime="1.5" punc="true">.</w>'
        f'<vocalsound nite:id="{who}.w2" starttime="2" endtime="3"/></nite:root>'
    )


def _segments(letter: str) -> str:
    who = f"ES2011a.{letter}"
    return (
        HEAD + f'<segment nite:id="s0" starttime="1" endtime="3"><nite:child '
        f'href="{who}.words.xml#id({who}.w0)..id({who}.w2)"/></segment></nite:root>'
    )


AMI = {
    "corpusResources/meetings.xml": MEETINGS,
    **{f"words/ES2011a.{x}.words.xml": _words(x).encode("latin-1") for x in "AB"},
    **{f"segments/ES2011a.{x}.segments.xml": _segments(x) for x in "AB"},
}


def _ami(folder) -> None:
    root = annotation.find_annotation(folder)
    sets = cut_sets(root, {"dev": ["ES2011a"]}, ["dev"])
    make_stm(sets["dev"].turns, MICROPHONES["ihm"])


def tar_of(files: dict[str, bytes]) -> bytes:
    """Make an uncompressed tar file."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


SEGMENT = "video_1-23-00000-00000000-00000020"
YODAS = {
    f"{SEGMENT}.wav": audio(),
    "video_1-23-00001-00000000-00000010.wav": audio("FLAC"),
}
YODAS2 = {"video_1-23.wav": audio()}
SHARD = layout.Shard("en000", "00000001")
OPTIONS = ShardOptions(min_duration=0.05, min_level=-90.0, text=True)
CAPTIONS = f"{SEGMENT}\tan \u00e9clair\nvideo_1-23-00001-00000000-00000010 no\n"
JSON = json.dumps([{"audio_id": "video_1-23", "text": {SEGMENT: "an \u00e9clair"}}])
MANIFEST = [
    {
        "corpus": "YODAS",
        "version": "0.2",
        "revision": None,
        "parts": ["en"],
        "hours": None,
        "valid_hours": 0.0,
        "seed": 0,
        "fs": 16000,
        "audio_format": "flac.ark",
        "min_duration": 0.05,
        "max_duration": 30.0,
        "min_level": -90.0,
        "text": True,
        "uncaptioned": False,
        "characters": {},
    },
    {"shard": "en000/00000001", "used": True, "release": "yodas", "tar_bytes": 1}
    | {"tar_sha256": "", "utterances": 1, "samples": 1, "skipped": {}},
    {"shard": "en000/00000002", "used": False, "reason": "its tar file is"},
]


def _shard(folder, compress=True) -> None:
    tar = folder / "data/en000/audio/00000001.tar"
    if tar.exists():  # damaged before compression
        tar.with_name(tar.name + ".gz").write_bytes(gzip.compress(tar.read_bytes(), 1))
    (folder / "new").mkdir()
    prepare_shard(folder / "data", SHARD, OPTIONS, folder / "new")


def _duration(folder) -> None:
    FolderSource(folder).seconds(SHARD)


def _manifest(folder) -> None:
    head, lines = read_manifest(folder / "manifest.jsonl")
    candidates(FolderSource(folder), Request([], 1.0, 0.0, 0, head, lines))
    prepare_yodas(
        folder / "out/set", {}, folder, manifest=folder / "manifest.jsonl", dry_run=True
    )


LIBRISPEECH = {
    "LibriSpeech/SPEAKERS.TXT": "; id\n19 | F | train-clean-100 | 25.1 | A | B\n",
    "LibriSpeech/dev-clean/19/198/19-198.trans.txt": "19-198-0000 A B\n19-198-0001 C\n",
    "LibriSpeech/dev-clean/19/198/19-198-0000.flac": audio("FLAC"),
    "LibriSpeech/dev-clean/19/198/19-198-0001.flac": audio("FLAC"),
}
AN4 = {
    "an4/etc/an4_train.transcription": "<s> YES </s> (an1-fash-b)\nNO (cen2-fash-b)\n",
}


def _shard_files(name: str, content: bytes, text: str, captions: str) -> dict:
    return {f"data/en000/audio/{name}": content, f"data/en000/text/{text}": captions}


TAR, TAR2 = tar_of(YODAS), tar_of(YODAS2)
READERS = [
    Reader(
        "ami_annotation",
        AMI,
        _ami,
        faults=(
            (
                "corpusResources/meetings.xml",
                MEETINGS.replace('channel="0"', 'channel="x"').encode(),
            ),
        ),
        share=1,
    ),
    Reader(
        "ami_partition",
        {"train.txt": "ES2002a\n", "dev.txt": "ES2011a IB4001\n", "eval.txt": "x\n"},
        read_partition,
        faults=(("dev.txt", b"\xff"),),
    ),
    Reader(
        "yodas_tar",
        _shard_files("00000001.tar", TAR, "00000001.txt", CAPTIONS),
        _shard,
        share=1,
    ),
    Reader(
        "yodas2_tar",
        _shard_files("00000001.tar", TAR2, "00000001.json", JSON),
        _shard,
        faults=(
            (
                "data/en000/text/00000001.json",
                JSON.replace("00000020", "9" * 5000).encode(),
            ),
        ),
        share=1,
    ),
    Reader(
        "yodas_gzip",
        _shard_files(
            "00000001.tar.gz", gzip.compress(TAR, mtime=0), "00000001.txt", CAPTIONS
        ),
        _shard,
        ("data/en000/audio/00000001.tar.gz",),
        share=1,
    ),
    Reader(
        "yodas_json",
        _shard_files("x", b"", "00000001.json", JSON),
        lambda x: layout.read_captions(x / "data", SHARD),
        ("data/en000/text/00000001.json",),
        (("data/en000/text/00000001.json", b'{"a":' * 3000),),
    ),
    Reader(
        "yodas_duration",
        {
            "data/en000/audio/00000001.tar.gz": b"",
            "data/en000/duration/00000001.txt": "a 1.5\nb 2\n",
        },
        _duration,
        ("data/en000/duration/00000001.txt",),
    ),
    Reader(
        "yodas_manifest",
        {
            "data/en000/audio/00000001.tar.gz": b"",
            "manifest.jsonl": "".join(json.dumps(line) + "\n" for line in MANIFEST),
        },
        _manifest,
        ("manifest.jsonl",),
        faults=(
            *(
                ("manifest.jsonl", json.dumps(MANIFEST[0]).encode() + b"\n" + x)
                for x in (
                    b'{"shard": "../../x/1", "used": false, "reason": ""}',
                    b'{"used": true}',
                    b"1",
                )
            ),
        ),
    ),
    Reader(
        "librispeech",
        LIBRISPEECH,
        lambda x: prepare_librispeech(x, x / "new", nj=2),
        share=1,
    ),
    Reader(
        "an4_transcription",
        AN4,
        lambda x: read_an4(x / "an4", "train"),
        faults=(("an4/etc/an4_train.transcription", b"\xff (an1-fash-b)"),),
    ),
    *(
        Reader(
            f"an4_tar{'_gz' * (pack is not None)}",
            {"t": (pack or bytes)(tar_of({"downloads/an4/etc/x": b"x", "y": b"y"}))},
            lambda x: unpack_an4(x / "t", x / "downloads"),
        )
        for pack in (None, partial(gzip.compress, mtime=0))
    ),
]
