"""Files for scoring AMI with NIST's tools: reference (stm) and word map (glm)."""

from collections.abc import Mapping, Sequence

from espnet2_birq.corpora.ami.corpus import Microphone, Turn

# Hesitations of the annotation. Scoring treats them as one word, which the hypothesis may
# omit.
HESITATIONS = ("AH", "EH", "ER", "ERM", "HM", "HMM", "MM", "UH", "UM")
HESITATION = "%HESITATION"  # word that replaces them
# Other spellings of the same word.
SAME_WORDS = {
    "M-HMM": "MM-HMM",
    "MHM": "MM-HMM",
    "MMM-HMM": "MM-HMM",
    "UHHUH": "UH-HUH",
    "OK": "OKAY",
    "O. K.": "OKAY",
}


def make_stm(turns: Sequence[Turn], microphone: Microphone) -> str:
    """Format utterances as a reference for sclite and asclite.

    Args:
        turns: Utterances of a set.
        microphone: Microphone condition.

    Returns:
        Lines `recording channel speaker start end words`, sorted by utterance id, as
        written by ESPnet's convert2stm.pl.
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
    """Format the word map that csrfilt.sh applies to reference and hypothesis."""
    head = [
        ";; All hesitations are one optional word; all spellings of a word are one word.",
        ";; Apply with csrfilt.sh to the reference (-i stm) and the hypothesis (-i ctm).",
        ";; Words in brackets are optional if sclite is called with -D.",
        '* name "ami"',
        '* desc "hesitations and spellings of AMI"',
        "* format = 'NIST1'",
        "* copy_no_hit = 'T'",
        "* case_sensitive = 'F'",
    ]
    lines = head + _rules(SAME_WORDS)
    # csrfilt.sh applies the rules after such a line to that side only. Optional words, in
    # brackets, are allowed in the reference only.
    for side, word in (("stm", f"({HESITATION})"), ("ctm", HESITATION)):
        lines.append(f';; INPUT_DEPENDENT_APPLICATION = "{side}"')
        lines += _rules(dict.fromkeys(HESITATIONS, word))
    return "".join(f"{line}\n" for line in lines)


def _rules(words: Mapping[str, str]) -> list[str]:
    return [f"{word} => {other} / [ ] __ [ ]" for word, other in words.items()]
