"""Pretrain an encoder: ``python -m espnet2_birq.bin.ssl_train --help``.

Options are those of ESPnet's training commands; birq.sh calls this in its stages 6 and 7.
"""

import argparse
from collections.abc import Sequence

import torch

from espnet2_birq.checkpoint import check_training_files
from espnet2_birq.kernels.allocator import keep_large_blocks
from espnet2_birq.recipes import name_configurations
from espnet2_birq.tasks.collate import check_first_audio
from espnet2_birq.tasks.commands import one_line_errors, parse
from espnet2_birq.tasks.ssl import SSLTask
from espnet2_birq.tasks.stopping import relaying


def get_parser() -> argparse.ArgumentParser:
    """Build the parser of SSLTask."""
    return name_configurations(SSLTask.get_parser())


def main(argv: Sequence[str] | None = None) -> None:
    """Run SSLTask; exit with status 1 and one line on stderr on a user error.

    SIGTERM, SIGUSR1 and Ctrl-C save the state, and the exit status is 85; a second
    Ctrl-C does not wait for that.
    """
    with one_line_errors("ssl_train"):
        args = parse(get_parser(), argv)
        check_training_files(args)
        lists = (
            *args.train_data_path_and_name_and_type,
            *args.valid_data_path_and_name_and_type,
        )
        if args.input_size is None:
            check_first_audio(lists, args.frontend_conf)
        with relaying():
            SSLTask.main(args=args)


if __name__ == "__main__":
    # Not in main(), since it changes the whole process.
    if not torch.cuda.is_available():
        keep_large_blocks()
    main()
