"""Run Python for ESPnet's recipes with this project's encoder and frontend for ASR.

    asr.sh --python "python3 -m espnet2_birq.bin.with_encoders" ...

makes asr.sh prefix its Python commands with ``-m espnet2_birq.bin.with_encoders``.
This module drops the prefix, and replaces ``-m espnet2.bin.NAME`` by
``-m espnet2_birq.bin.NAME`` for asr_train and asr_inference. Other commands run
unchanged. (asr.sh's other decoders, e.g. ``--use_streaming true``, do not know the
encoder and the frontend.)
"""

import os
import sys
from collections.abc import Sequence

ESPNET, OURS = "espnet2.bin.", "espnet2_birq.bin."
COMMANDS = ("asr_train", "asr_inference")


def translate(arguments: list[str]) -> list[str]:
    """Replace the module to run, if it is one of COMMANDS.

    Args:
        arguments: Python's arguments: options, then ``-m MODULE`` or a file, then
            arguments of the program.

    Returns:
        The new arguments of Python.

    Example:
        >>> translate(["-m", "espnet2.bin.asr_train", "--ngpu", "4"])
        ['-m', 'espnet2_birq.bin.asr_train', '--ngpu', '4']
    """
    for position, argument in enumerate(arguments[:-1]):
        if argument == "-m":
            module = arguments[position + 1]
            if module in [ESPNET + name for name in COMMANDS]:
                module = OURS + module.removeprefix(ESPNET)
            return [*arguments[: position + 1], module, *arguments[position + 2 :]]
        if not argument.startswith("-"):
            break
    return list(arguments)


def main(argv: Sequence[str] | None = None) -> None:
    """Replace this process by the translated command."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if arguments in ([], ["-h"], ["--help"]):
        print(__doc__.strip())
        return
    os.execv(sys.executable, [sys.executable, *translate(arguments)])


if __name__ == "__main__":
    main()
