"""Scoring of AMI with NIST's tools: reference in stm format, word map in glm format."""

from collections.abc import Mapping, Sequence

from espnet2_birq.corpora.ami.corpus import Microphone, Turn

# What is no word to a recogniser's user: may be missing, and one counts as the other.
# From the words of the annotation that are hesitations alone.
HESITATIONS = ("AH", "EH", "ER", "ERM", "HM", "HMM", "MM", "UH", "UM")
HESITATION = "%HESITATION"  # what they are mapped to
# Spellings of one and the same answer.
SAME_WORDS = {
    "M-HMM": "MM-HMM",
    "MHM": "MM-HMM",
    "MMM-HMM": "MM-HMM",
    "UHHUH": "UH-HUH",
    "OK": "OKAY",
    "O. K.": "OKAY",
}


def make_stm(turns: Sequence[Turn], microphone: Microphone) -> str:
    """Write utterances as a reference for sclite and asclite.

    Args:
        turns: The utterances.
        microphone: Whose recordings.

    Returns:
        Lines `recording channel speaker begin end words`, by utterance id, as those of
        ESPnet's convert2stm.pl.
    """
    lines = []
    for turn in sorted(turns, key=lambda turn: turn.utt_id(microphone)):
        name = microphone.file_name(turn.meeting, turn.headset)
        lines.append(
            f"{name} A {turn.channel_speaker(microphone)} "
            f"{turn.start / 100:.2f} {turn.end / 100:.2f} {turn.text}\n"
        )
    return "".join(lines)


def make_glm() -> str:
    """Write the map that csrfilt.sh applies to reference (stm) and hypothesis (ctm)."""
    head = [
        ";; Hesitations may be missing, and are all one word; spellings of one answer",
        ";; are all one word. csrfilt.sh applies it to both, by -i stm and -i ctm;",
        ";; that words in brackets may be missing, sclite heeds with -D.",
        '* name "ami"',
        '* desc "hesitations and spellings of AMI"',
        "* format = 'NIST1'",
        "* copy_no_hit = 'T'",
        "* case_sensitive = 'F'",
    ]
    lines = head + _rules(SAME_WORDS)
    # csrfilt.sh applies what follows such a line to that side only. A word in brackets
    # may be missing, which can be said of the reference alone.
    for side, word in (("stm", f"({HESITATION})"), ("ctm", HESITATION)):
        lines.append(f';; INPUT_DEPENDENT_APPLICATION = "{side}"')
        lines += _rules(dict.fromkeys(HESITATIONS, word))
    return "".join(f"{line}\n" for line in lines)


def _rules(words: Mapping[str, str]) -> list[str]:
    return [f"{word} => {other} / [ ] __ [ ]" for word, other in words.items()]
