"""ESPnet's asr_inference with the encoder ``shaw_conformer``; see --help."""

from espnet2.bin.asr_inference import get_parser, main

from espnet2_birq.tasks.asr import ASRTask  # adds the encoder to ESPnet's own task

__all__ = ["ASRTask", "get_parser", "main"]

if __name__ == "__main__":
    main()
