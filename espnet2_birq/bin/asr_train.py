"""ESPnet's asr_train with the encoder ``shaw_conformer``; see --help."""

import sys

from espnet2_birq.checkpoint import check_training_files
from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.tasks.asr import ASRTask


def get_parser():
    """The parser of ESPnet's ASRTask."""
    return ASRTask.get_parser()


def main(cmd=None):
    """Run ASRTask; a wrong setting is one line on stderr and exit status 1."""
    args = get_parser().parse_args(cmd)
    try:
        check_training_files(args)
        ASRTask.main(args=args)
    except (ConfigError, DataError) as error:
        sys.exit(f"asr_train: error: {error}")


if __name__ == "__main__":
    main()
