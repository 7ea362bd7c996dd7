"""ESPnet's asr_inference with ``encoder: shaw_conformer``, ``frontend: birq``; see --help."""

import argparse
import re
import sys
from collections.abc import Sequence

from espnet2.bin import asr_inference

from espnet2_birq.options import known_names
from espnet2_birq.tasks.asr import ASRTask  # adds the encoder to ESPnet's own task

__all__ = ["ASRTask", "get_parser", "main"]


def get_parser() -> argparse.ArgumentParser:
    """Build ESPnet's parser.

    ESPnet 202611 has a help text with "3.19% CER", on which its own --help fails.
    """
    parser = asr_inference.get_parser()
    for action in parser._actions:
        action.help = re.sub(r"%%|%(?!\()", "%%", action.help or "")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run ESPnet's command."""
    parser = get_parser()
    argv = known_names(parser, sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(argv):
        parser.print_help()
        return
    asr_inference.main(argv)


if __name__ == "__main__":
    main()
