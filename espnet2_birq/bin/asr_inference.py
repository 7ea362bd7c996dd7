"""ESPnet's asr_inference with ``encoder: shaw_conformer``, ``frontend: birq``; see --help."""

import sys
from collections.abc import Sequence

from espnet2.bin import asr_inference
from espnet2.bin.asr_inference import get_parser

from espnet2_birq.options import known_names
from espnet2_birq.tasks.asr import ASRTask  # adds the encoder to ESPnet's own task

__all__ = ["ASRTask", "get_parser", "main"]


def main(argv: Sequence[str] | None = None) -> None:
    """Run ESPnet's command."""
    argv = sys.argv[1:] if argv is None else argv
    asr_inference.main(known_names(get_parser(), argv))


if __name__ == "__main__":
    main()
