"""Readers of Kaldi data directories, their audio and their stamps."""

import hashlib
import io
import json

import numpy as np
import soundfile
from fuzzing import Reader

from espnet2_birq.datadir import check
from espnet2_birq.datadir.adopt import adopt
from espnet2_birq.datadir.audio import probe_entry, read_wave
from espnet2_birq.datadir.check import check_data_dir, describe
from espnet2_birq.datadir.kaldi import read_scp
from espnet2_birq.datadir.pseudo_labels import pseudo_label
from espnet2_birq.datadir.stamp import check_stamp, sources
from espnet2_birq.datadir.stream import iter_spk2utt
from espnet2_birq.datadir.subset import choose, read_data_dir, subset_data_dir
from espnet2_birq.errors import DataError
from espnet2_birq.extraction.sources import find_recordings
from espnet2_birq.planning.plan import Data

FS = 16000
DIGITS = b"9" * 5000


def audio(kind: str = "WAV", samples: int = 3200, subtype: str | None = None) -> bytes:
    """Make a file of noise."""
    noise = np.random.default_rng(0).normal(0.0, 0.1, samples)
    stream = io.BytesIO()
    soundfile.write(stream, noise, FS, subtype, format=kind)
    return stream.getvalue()


def ark() -> bytes:
    """Make an ark of two utterances, as ESPnet writes it; the first is at byte 2."""
    flac = audio("FLAC")
    one = b"AUDIO" + bytes([4]) + len(flac).to_bytes(4, "little") + flac
    return b"a " + one + b"b " + one


def _kaldi(**more) -> dict[str, bytes | str]:
    return {
        "data/wav.scp": "s1-a audio/a.wav\ns1-b audio/b.flac\ns2-c audio/a.wav\n",
        "data/utt2spk": "s1-a s1\ns1-b s1\ns2-c s2\n",
        "data/spk2utt": "s1 s1-a s1-b\ns2 s2-c\n",
        "data/text": "s1-a A B\ns1-b\ns2-c C\n",
        "audio/a.wav": audio(),
        "audio/b.flac": audio("FLAC"),
        **{f"data/{name}": content for name, content in more.items()},
    }


SEGMENTED = {
    "data/wav.scp": "r1 audio/a.wav\nr2 audio/b.flac\n",
    "data/segments": "s1-a r1 0.0 0.1\ns1-b r2 0.05 -1\ns2-c r1 0.1 0.2\n",
    "data/utt2spk": "s1-a s1\ns1-b s1\ns2-c s2\n",
    "data/text": "s1-a A B\ns1-b C\ns2-c C\n",
    "audio/a.wav": audio(),
    "audio/b.flac": audio("FLAC"),
}
FORMATTED = _kaldi(
    feats_type="raw\n",
    audio_format="wav\n",
    utt2num_samples="s1-a 3200\ns1-b 3200\ns2-c 3200\n",
)
ARKS = {
    "data/wav.scp": f"a data.ark:2\nb data.ark:{len(ark()) // 2 + 2}\n",
    "data/utt2spk": "a a\nb b\n",
    "data.ark": ark(),
}
SHA256 = hashlib.sha256(b"x").hexdigest()
STAMP = {
    "options": {"fs": "16k"},
    "files": {"in": {"bytes": 1, "lines": 0, "sha256": SHA256}},
}


def _look(entry, fs):
    """Probe an entry, but reject commands, since damaged lists must not run any."""
    if entry.endswith("|"):
        raise DataError(f"{entry}: a command")
    return probe_entry(entry, fs)


def _check(folder) -> None:
    check._look = _look
    report = check_data_dir(folder / "data", FS, full=True, nj=2)
    lines = describe(folder, report)
    assert not any("\n" in line for line in lines)


def _subset(folder) -> None:
    subset_data_dir(folder / "data", folder / "new", 0.2 / 3600, folder / "rest")


def _pseudo_label(folder) -> None:
    pseudo_label(folder / "data", folder / "more", folder / "out", folder / "new")


def _stamp(folder) -> None:
    sources(folder)
    check_stamp(folder, ["in"], {"fs": "16k"}, required=True)


LABELLED = {k: v for k, v in FORMATTED.items() if k != "data/text"} | {
    "data/text": "s1-a ABC\ns1-b AB\ns2-c ABC\n"
}
MORE = {
    name.replace("data/", "more/"): (
        content.replace("s1-", "t1-").replace("s2-", "t2-").replace("s1\n", "t1\n")
        if isinstance(content, str)
        else content
    )
    for name, content in FORMATTED.items()
    if name.startswith("data/") and not name.endswith(("text", "2utt", "2spk"))
}
MORE |= {
    "more/utt2spk": "t1-a t1\nt1-b t1\nt2-c t2\n",
    "more/spk2utt": "t1 t1-a t1-b\nt2 t2-c\n",
    "out/text": "t1-a ABC\nt1-b AB\nt2-c ABC\n",
    "out/token": "t1-a A B C\nt1-b A B\nt2-c A B C\n",
    "out/score": "t1-a tensor(-1.5)\nt1-b -2\nt2-c -3e0\n",
}
READERS = [
    Reader(
        "kaldi_list",
        _kaldi(),
        lambda x: read_scp(x / "data/wav.scp"),
        ("data/wav.scp",),
    ),
    Reader(
        "kaldi_text",
        _kaldi(),
        lambda x: read_scp(x / "data/text", allow_empty_values=True),
        ("data/text",),
    ),
    Reader(
        "spk2utt",
        _kaldi(),
        lambda x: list(iter_spk2utt(x / "data/spk2utt")),
        ("data/spk2utt",),
        (("data/spk2utt", b"s1 " + b"x" * 5000 + b"\xff"),),
    ),
    Reader(
        "check_data",
        _kaldi(utt2num_samples=FORMATTED["data/utt2num_samples"]),
        _check,
        faults=(
            ("data/utt2num_samples", b"s1-a " + DIGITS),
            ("data/wav.scp", b"s1-a x" * 1000),
        ),
        share=1,
    ),
    Reader("check_data_segments", SEGMENTED, _check, share=1),
    Reader(
        "check_data_formatted",
        FORMATTED,
        _check,
        faults=(
            ("data/feats_type", b"|\r\n|\r\nraw\r\n"),
            ("data/feats_type", b"\xff"),
        ),
        share=1,
    ),
    Reader(
        "check_data_ark",
        ARKS,
        _check,
        faults=(
            ("data/wav.scp", b"a data.ark:" + DIGITS),
            ("data.ark", b"a AUDIO\xff" + b"\xff" * 99),
        ),
        share=1,
    ),
    Reader("subset", _kaldi(), _subset, share=1),
    Reader("subset_segments", SEGMENTED, _subset, share=1),
    Reader(
        "subset_formatted",
        FORMATTED,
        _subset,
        faults=(("data/audio_format", "wav".encode("utf-16")),),
        share=1,
    ),
    Reader(
        "subset_durations",
        _kaldi(utt2dur="s1-a 0.2\ns1-b 0.2\ns2-c 1e-1\n", spk2gender="s1 f\ns2 m\n"),
        lambda x: choose(read_data_dir(x / "data", FS), 0.2 / 3600),
        ("data/utt2dur", "data/spk2gender", "data/utt2spk"),
        share=1,
    ),
    Reader("adopt", _kaldi(), lambda x: adopt(x / "data", x / "new", FS), share=1),
    Reader(
        "adopt_formatted",
        FORMATTED,
        lambda x: adopt(x / "data", x / "new", FS),
        faults=(
            ("data/feats_type", b"raw\n9"),
            ("data/audio_format", b"\xff"),
            ("data/utt2num_samples", b"s1-a " + DIGITS),
        ),
        share=1,
    ),
    Reader(
        "pseudo_labels",
        LABELLED | MORE,
        _pseudo_label,
        faults=(
            ("data/audio_format", b"wav\nwav\n"),
            ("more/utt2num_samples", b"t1-a 3200\nt1-b 3200\nt2-c -9\n"),
            ("more/utt2num_samples", b"t1-a 3200\nt1-b 3200\nt2-c 0\n"),
        ),
        share=1,
    ),
    Reader(
        "lengths_of_plan",
        FORMATTED,
        lambda x: Data.read(x / "data", FS),
        ("data/utt2num_samples",),
    ),
    *(
        Reader(
            f"audio_{kind}_{subtype}".lower(),
            {"x": audio(kind, subtype=subtype)},
            lambda x: (probe_entry(str(x / "x"), FS), read_wave(str(x / "x"))),
            share=1,
        )
        for kind, subtype in (
            ("WAV", "PCM_16"),
            ("WAV", "FLOAT"),
            ("FLAC", "PCM_16"),
            ("NIST", "PCM_16"),
            ("OGG", "VORBIS"),
        )
    ),
    Reader(
        "audio_in_ark",
        {"data.ark": ark()},
        lambda x: [
            probe_entry(f"{x}/data.ark:{at}", FS) for at in (2, len(ark()) // 2 + 2)
        ],
    ),
    Reader(
        "stamp",
        {"in": "x", "made_from.json": json.dumps(STAMP)},
        _stamp,
        ("made_from.json",),
        faults=(
            *(
                ("made_from.json", x)
                for x in (
                    b"",
                    b"{",
                    b"9",
                    b"[" * 3000,
                    b"\xff",
                    DIGITS,
                    b'{"options": {}}',
                    b'{"options": {}, "files": {"in": {}}}',
                )
            ),
        ),
    ),
    Reader(
        "recordings_wav_scp",
        {"wav.scp": "a a.wav\nb a.wav\n", "a.wav": audio()},
        lambda x: find_recordings(x / "wav.scp", FS, 2),
        ("wav.scp",),
        share=1,
    ),
    Reader(
        "recordings_json",
        {"a.jsonl": '{"audio_filepath": "a.wav", "duration": 0.2}\n', "a.wav": audio()},
        lambda x: find_recordings(x / "a.jsonl", FS, 2),
        ("a.jsonl",),
        faults=(
            ("a.jsonl", b"\xff"),
            ("a.jsonl", b'{"audio_filepath": 1}'),
        ),
    ),
    Reader(
        "recordings_tsv",
        {"a.tsv": ".\na.wav\t3200\nb.wav\t3200\n", "a.wav": audio(), "b.wav": audio()},
        lambda x: find_recordings(x / "a.tsv", FS, 2),
        ("a.tsv",),
        faults=(
            ("a.tsv", b".\r\r\na.wav\t1\n"),
            ("a.tsv", b"\xff"),
            ("a.tsv", b".\n" + b"x" * 5000),
        ),
    ),
]
