"""What the training commands share: parsing, errors in one line, the frame of a rank."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml
from espnet2.torch_utils.safe_torch_load import UnsafeLoadRefusedError
from torch.multiprocessing import ProcessExitedException

from espnet2_birq.errors import ConfigError, UserError, one_line
from espnet2_birq.options import known_names
from espnet2_birq.pretraining.ranks import telling_of_others
from espnet2_birq.tasks.saving import is_first, kept_config
from espnet2_birq.tasks.stopping import exit_of_rank, listening


def parse(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> argparse.Namespace:
    """Parse the options of a training command.

    Args:
        parser: Parser of a task.
        argv: Arguments; None: those of this process.

    Raises:
        ConfigError: The file of ``--config``, or an option, is not valid YAML.
    """
    argv = sys.argv[1:] if argv is None else argv
    try:
        return parser.parse_args(known_names(parser, argv))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        why = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"--config, or an option: not valid YAML: {why}; correct it"
        ) from error


@contextmanager
def one_line_errors(command: str) -> Iterator[None]:
    """Exit with status 1 and one line on stderr on a user error in this context.

    Args:
        command: Name of the command.

    Raises:
        SystemExit: See above; or the exit status of a rank that has ended.
    """
    try:
        yield
    except UnsafeLoadRefusedError as error:
        fault = str(error).splitlines()[0][:300]
        sys.exit(f"{command}: error: {fault}; it is not loaded: it could execute code")
    except ProcessExitedException as error:
        sys.exit(exit_of_rank(error))
    except OSError as error:
        why = error.strerror or " ".join(str(error).split())
        sys.exit(f"{command}: error: {error.filename or 'a file'}: {why}")
    except UserError as error:
        sys.exit(f"{command}: error: {one_line(error)}")


@contextmanager
def training_context(args: argparse.Namespace) -> Iterator[None]:
    """Surround one process of a training, as ESPnet's ``main_worker`` runs it.

    Signals are noted until the next update ends, config.yaml is kept until the new one is
    complete, and the end of another rank is reported.

    Args:
        args: Options of the training.

    Raises:
        RankError: Another rank has ended.
    """
    with (
        telling_of_others(),
        listening(),
        kept_config(Path(args.output_dir), is_first(args)),
    ):
        yield
