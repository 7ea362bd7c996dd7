"""Make a small corpus of several languages with eSpeak NG, to try out `birq languages`.

Random strings of common words in English, German, Spanish and Finnish, in many voices: data
directories DEST/train and DEST/test with wav.scp, text, utt2spk and category2utt. The same
voices speak all languages, so a voice does not reveal the language; the test set has other
voices.

    python bench/languages.py --dest DIR
    python -m espnet2_birq.bin.languages --model MODEL --train DIR/train --test DIR/test \
        --out DIR/report --updates 600
"""

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
import soundfile
import soxr

from espnet2_birq.corpora.synth import (
    SAMPLE_RATE,
    TEST_VOICES,
    TRAIN_VOICES,
    Voice,
    check_available,
    speak,
)
from espnet2_birq.datadir.kaldi import format_scp

WORDS = {
    "en": "the and water house hand night morning mother father road tree small great "
    "good open walk bring think light stone river garden never always under",
    "de": "der und wasser haus hand nacht morgen mutter vater straße baum klein groß gut "
    "öffnen gehen bringen denken licht stein fluss garten niemals immer unter",
    "es": "el y agua casa mano noche mañana madre padre camino árbol pequeño grande bueno "
    "abrir andar traer pensar luz piedra río jardín nunca siempre debajo",
    "fi": "se ja vesi talo käsi yö aamu äiti isä tie puu pieni suuri hyvä avata kävellä "
    "tuoda ajatella valo kivi joki puutarha koskaan aina alla",
}
LENGTH = 5  # words of an utterance


def write_set(folder: Path, voices: tuple[Voice, ...], number: int, seed: int) -> None:
    """Synthesise a set with `number` utterances of each language."""
    draw = np.random.default_rng(seed)
    (folder / "wav").mkdir(parents=True, exist_ok=True)
    files: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for language, words in WORDS.items():
        names = []
        for count in range(number):
            voice = voices[count % len(voices)]
            name = f"{voice.speaker}-{language}{count:04}"
            text = " ".join(draw.choice(words.split(), LENGTH))
            rate, pitch = int(draw.integers(130, 190)), int(draw.integers(30, 70))
            found, hertz = speak(text, f"{language}+{voice.variant}", rate, pitch, 50)
            wave = soxr.resample(found, hertz, SAMPLE_RATE)
            wave = wave + 0.001 * draw.standard_normal(len(wave))
            path = folder / "wav" / f"{name}.flac"
            soundfile.write(path, wave, SAMPLE_RATE)
            names.append(name)
            files["wav.scp"].append((name, str(path.resolve())))
            files["text"].append((name, text))
            files["utt2spk"].append((name, voice.speaker))
        files["category2utt"].append((language, " ".join(sorted(names))))
    for file, pairs in files.items():
        (folder / file).write_text(format_scp(sorted(pairs)), encoding="utf-8")


def main(argv=None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dest", type=Path, required=True)
    parser.add_argument(
        "--train", type=int, default=90, help="utterances a language (90)"
    )
    parser.add_argument("--test", type=int, default=30, help="the same (30)")
    args = parser.parse_args(argv)
    check_available()
    write_set(args.dest / "train", TRAIN_VOICES, args.train, 0)
    write_set(args.dest / "test", TEST_VOICES, args.test, 1)


if __name__ == "__main__":
    main()
