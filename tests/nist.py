"""NIST's scoring toolkit, where it is installed, and text to score with it."""

import os
import random
import re
import shutil
import subprocess

import pytest

# Debian installs it outside the PATH.
PATH = os.pathsep.join([os.environ["PATH"], "/usr/lib/sctk/bin"])
WORDS = [f"w{number}" for number in range(8)] + ["é", "ÄB", "世界", "ñandú"]


def find(name):
    """Return the path of a program of the toolkit, or None if it is missing."""
    program = shutil.which(name, path=PATH)
    if program is None:
        return None
    report = subprocess.run([program], capture_output=True, text=True)
    return program if "SCTK" in report.stdout + report.stderr else None


SCLITE, SC_STATS = find("sclite"), find("sc_stats")
RFILTER = shutil.which("rfilter1", path=PATH)
needs_nist = pytest.mark.skipif(
    SCLITE is None or SC_STATS is None or RFILTER is None,
    reason="NIST's sclite is not installed (Debian's package sctk)",
)


def random_set(number, seed, words=WORDS):
    """Return references and hypotheses of some utterances, some of them empty.

    With few different words and many errors, many alignments have equal costs.
    """
    rng = random.Random(seed)
    refs, hyps = {}, {}
    for index in range(number):
        length = 0 if rng.random() < 0.03 else rng.randint(1, 25)
        ref = rng.choices(words, k=length)
        hyp = []
        for word in ref:
            kind = rng.random()
            if kind < 0.12:
                continue
            hyp.append(rng.choice(words) if kind < 0.35 else word)
            if kind > 0.88:
                hyp += rng.choices(words, k=rng.randint(1, 2))
        if rng.random() < 0.03:
            hyp = []
        elif not ref and rng.random() < 0.5:
            hyp = [rng.choice(words)]
        utt_id = f"s{index % 7}-{index:05d}"
        refs[utt_id], hyps[utt_id] = " ".join(ref), " ".join(hyp)
    return refs, hyps


def write_trn(path, texts):
    """Write utterances to a trn file."""
    lines = [f"{text} ({utt_id})\n" for utt_id, text in texts.items()]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def run_sclite(folder, refs, hyps, *options, output=("all", "stdout")):
    """Run sclite on utterances; return its output."""
    ref, hyp = write_trn(folder / "ref.trn", refs), write_trn(folder / "hyp.trn", hyps)
    return subprocess.run(
        [SCLITE, *options, "-r", ref, "trn", "-h", hyp, "trn", "-i", "rm"]
        + ["-o", *output],
        check=True,
        capture_output=True,
        encoding="utf-8",
    ).stdout


def scores(report):
    """Return utterance id to numbers of correct, substituted, deleted, inserted words."""
    pattern = r"^id: \((\S+)\)\nScores: \(#C #S #D #I\) (\d+) (\d+) (\d+) (\d+)"
    return {
        match[1]: [int(number) for number in match.groups()[1:]]
        for match in re.finditer(pattern, report, re.MULTILINE)
    }
