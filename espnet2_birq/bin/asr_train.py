"""ESPnet's asr_train with ``encoder: shaw_conformer``, ``frontend: birq``, joint training.

With ``objectives`` in the configuration, the encoder also learns the objectives of
pretraining (docs/joint.md).
"""

import argparse
from collections.abc import Sequence
from itertools import chain

from espnet2_birq.checkpoint import check_training_files
from espnet2_birq.errors import ConfigError
from espnet2_birq.recipes import name_configurations
from espnet2_birq.tasks.asr import ASRTask
from espnet2_birq.tasks.collate import check_first_audio
from espnet2_birq.tasks.commands import one_line_errors, parse
from espnet2_birq.tasks.joint import JointTask
from espnet2_birq.tasks.stopping import relaying


def get_parser() -> argparse.ArgumentParser:
    """Build the parser of ESPnet's ASRTask, with our options."""
    return name_configurations(JointTask.get_parser())


def check_alone(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse options of joint training without it.

    Raises:
        ConfigError: There is one.
    """
    known = {action.dest for action in ASRTask.get_parser()._actions}
    for name, value in vars(args).items():
        if name not in known and value != parser.get_default(name):
            raise ConfigError(
                f"{name} is for joint training: give its objectives, too, or leave it out"
            )


def main(argv: Sequence[str] | None = None) -> None:
    """Run the task; exit with status 1 and one line on stderr on a user error."""
    with one_line_errors("asr_train"):
        parser = get_parser()
        args = parse(parser, argv)
        check_training_files(args)
        if not args.objectives:
            check_alone(parser, args)
            ASRTask.main(args=args)
            return
        kinds = ("train", "valid", "unlabelled")
        lists = [getattr(args, f"{x}_data_path_and_name_and_type") for x in kinds]
        check_first_audio(chain(*lists), args.frontend_conf)
        with relaying():
            JointTask.main(args=args)


if __name__ == "__main__":
    main()
