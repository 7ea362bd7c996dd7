"""Readers of alignments, transcripts, n-grams and stored results of decoding."""

import gzip
import io
import json

import numpy as np
import yaml
from fuzzing import Reader

from espnet2_birq.evaluation.decode.ngram_training import load, read_sentences
from espnet2_birq.evaluation.decode.search import arpa_words
from espnet2_birq.evaluation.decode.sets import read_weights
from espnet2_birq.evaluation.decode.store import Block, LogProbs, Results, read_block
from espnet2_birq.evaluation.phones.alignments import phone_classes, read_alignments
from espnet2_birq.evaluation.phones.speech import _of_kaldi
from espnet2_birq.evaluation.wer import grouping
from espnet2_birq.evaluation.wer.experiments import (
    Options,
    find_sets,
    plain_set,
    score_sets,
)
from espnet2_birq.evaluation.wer.meeting import score_meetings
from espnet2_birq.evaluation.wer.transcripts import read_pair

TSV = "a\tSIL:3 AH:4 S:1 IY:7\nb\tT:5 AH:5 SIL:5\n"
CTM = ";; a comment\na 1 0.00 0.03 SIL_S\na 1 0.03 0.04 AH0_B\nb 1 0 0.05 T\n"
GRID = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 0.08
tiers? <exists>
size = 3
item []:
    item [1]:
        class = "IntervalTier"
        name = "words"
        xmin = 0
        xmax = 0.08
        intervals: size = 1
        intervals [1]:
            xmin = 0
            xmax = 0.08
            text = "he said ""no"" 7 times"
    item [2]:
        class = "TextTier"
        name = "clicks"
        xmin = 0
        xmax = 0.08
        points: size = 1
        points [1]:
            number = 0.01
            mark = "x"
    item [3]:
        class = "IntervalTier"
        name = "phones"
        xmin = 0
        xmax = 0.08
        intervals: size = 2
        intervals [1]:
            xmin = 0
            xmax = 0.03
            text = ""
        intervals [2]:
            xmin = 0.03
            xmax = 0.08
            text = "AH1"
"""
SHORT = (
    'File type = "ooTextFile"\nObject class = "TextGrid"\n\n0\n0.08\n<exists>\n1\n'
    '"IntervalTier"\n"phones"\n0\n0.08\n2\n0\n0.03\n""\n0.03\n0.08\n"AH1"\n'
)
STM = ";; x\nES1.Headset-0 A s1 0.00 1.50 <o,f0> A B\nES1.Headset-1 A s2 1 2 C\n"
REF = "A B (s1-s1-a)\nC D E (s2-s2-b)\n"
HYP = "A B (s1-s1-a)\nC E (s2-s2-b)\n"
ARPA = (
    "\\data\\\nngram 1=3\nngram 2=1\n\n\\1-grams:\n-1 <s> -0.3\n-1 </s>\n-1 A -0.3\n\n"
    "\\2-grams:\n-0.1 <s> A\n\n\\end\\\n"
)
KEY = {"model": "x", "began": 1}


def _alignments(name):
    def read(folder) -> None:
        found = read_alignments(folder / name)
        classes = phone_classes(found.values())
        for one in found.values():
            one.frame_labels(5, 0.02, classes)

    return read


def _trn(folder) -> None:
    for name in ("ref.trn", "hyp.trn"):
        (folder / f"d/set/score_cer/{name}").write_bytes(
            (folder / f"d/set/score_wer/{name}").read_bytes()
        )
    score_sets(find_sets(folder), Options())


def _pair(folder) -> None:
    sets = [plain_set(folder / "ref", folder / "hyp")]
    score_sets(sets, Options(data=folder / "data", by=str(folder / "groups")))
    grouping.make_groups(
        ids := read_pair(folder / "ref", folder / "hyp").ids,
        grouping.label(ids, folder / "data"),
        "overlap",
    )


def _meeting(folder) -> None:
    score_meetings(plain_set(folder / "ref.stm", folder / "hyp.stm"), Options())


def _block() -> bytes:
    stream = io.BytesIO()
    np.savez(
        stream,
        names=np.array(["a", "b"]),
        audio=np.array(["1", "2"]),
        frames=np.array([2, 1]),
        log_probs=np.zeros((3, 2), np.float32),
        seconds=0.5,
        network_seconds=0.1,
    )
    return stream.getvalue()


def _log_probs(folder) -> None:
    """A store that cannot be read is started afresh."""
    store = LogProbs(folder / "store", {"model": "x"}, {"a": "1", "b": "2"})
    for path in store.blocks():
        read_block(path)
    store.done()
    store.add(Block(["c"], [np.zeros((1, 2), np.float32)], 0.1, 0.1, ["3"]))
    assert "c" in store.done()


def _results(folder) -> None:
    results = Results(folder / "results.jsonl", {"model": "x"})
    results.add({"c": {"text": "C"}})
    assert "c" in Results(folder / "results.jsonl", {"model": "x"}).found


RESULTS = '{"model": "x"}\n{"name": "a", "text": "A"}\n{"name": "b", "text": "B"}\n'
READERS = [
    Reader(
        "phones_tsv",
        {"a.tsv": TSV},
        _alignments("a.tsv"),
        faults=(("a.tsv", b"a\tAA:" + b"9" * 5000),),
    ),
    Reader(
        "phones_ctm",
        {"a.ctm": CTM},
        _alignments("a.ctm"),
        faults=(("a.ctm", b"a 1 1e300 1 AA"),),
    ),
    Reader(
        "phones_gzip",
        {"a.ctm.gz": gzip.compress(CTM.encode(), mtime=0)},
        _alignments("a.ctm.gz"),
        faults=(("a.ctm.gz", gzip.compress(CTM.encode(), mtime=0)[:-9] + b"x" * 9),),
    ),
    Reader("textgrid", {"a.TextGrid": GRID}, _alignments("a.TextGrid")),
    Reader(
        "textgrids_short",
        {"g/s/a.TextGrid": SHORT},
        _alignments("g"),
        faults=(("g/s/a.TextGrid", SHORT.replace("0.03", "1e400").encode()),),
    ),
    Reader(
        "textgrid_utf16",
        {"a.TextGrid": GRID.encode("utf-16")},
        _alignments("a.TextGrid"),
    ),
    Reader(
        "phones_speech",
        {"wav.scp": "a x.wav\n", "utt2spk": "a s\n", "x.wav": b""},
        _of_kaldi,
        ("wav.scp", "utt2spk"),
    ),
    Reader(
        "trn",
        {"d/set/score_wer/ref.trn": REF, "d/set/score_wer/hyp.trn": HYP}
        | {"d/set/score_cer/x": ""},
        _trn,
        ("d/set/score_wer/ref.trn", "d/set/score_wer/hyp.trn"),
        share=1,
    ),
    Reader(
        "ref_hyp",
        {
            "ref": "s1-a A B\ns2-b C D E\n",
            "hyp": "s1-a A B\ns2-b C\n",
            "groups": "s1-a x\ns2-b y\n",
            "data/utt2spk": "s1-a s1\ns2-b s2\n",
            "data/segments": "s1-a r 0.0 1.5\ns2-b r 1 2\n",
        },
        _pair,
        faults=(
            ("data/segments", b"s1-a r \xc2\xb2 1\ns2-b r 1 2\n"),
            ("data/segments", b"s1-a 0 1\ns2-b r 1 2\n"),
        ),
        share=1,
    ),
    Reader(
        "stm",
        {"ref.stm": STM, "hyp.stm": STM},
        _meeting,
        faults=(
            ("hyp.stm", b"\xff"),
            ("hyp.stm", b"a b c nan 1 d"),
        ),
        share=1,
    ),
    Reader(
        "arpa",
        {"a.arpa": ARPA},
        lambda x: list(arpa_words(x / "a.arpa")),
        faults=(("a.arpa", b"\\1-grams:\n1\n"),),
    ),
    Reader("arpa_model", {"a.arpa": ARPA}, lambda x: load(x / "a.arpa", 2, [0])),
    Reader(
        "arpa_gzip",
        {"a.arpa.gz": gzip.compress(ARPA.encode(), mtime=0)},
        lambda x: list(arpa_words(x / "a.arpa.gz")),
        faults=(
            ("a.arpa.gz", b"\x1f\x8b"),
            ("a.arpa.gz", b"x"),
        ),
    ),
    Reader(
        "sentences_gzip",
        {"a.gz": gzip.compress(b"A B\nC\n", mtime=0)},
        lambda x: read_sentences(x / "a.gz"),
        faults=(("a.gz", gzip.compress(b"A", mtime=0)[:-5] + b"xxxxx"),),
    ),
    Reader(
        "lm_weights",
        {"w.yaml": yaml.safe_dump({"lm": "x", "lm_weight": 1.5, "beam_size": 10})},
        lambda x: read_weights(x / "w.yaml"),
        faults=(
            *(
                ("w.yaml", x)
                for x in (
                    b"}",
                    b"&",
                    b"[" * 3000,
                    b"\xff",
                    b'!!int ""',
                    b"lm: " + b"9" * 5000,
                )
            ),
        ),
    ),
    Reader(
        "log_probs",
        {"store/key.json": json.dumps(KEY), "store/block000000.npz": _block()},
        _log_probs,
        faults=(
            *(("store/key.json", x) for x in (b"{", b"\xff", b"[]")),
            *(("store/block000000.npz", x) for x in (b"", b"P", b"PK\x03\x04")),
        ),
    ),
    Reader(
        "results",
        {"results.jsonl": RESULTS},
        _results,
        faults=(
            *(
                ("results.jsonl", b'{"model": "x"}\n' + x)
                for x in (b"nan\n", b"{}\n", b"\xff\n", b'{"name": 1}')
            ),
        ),
    ),
]
