"""Python for ESPnet's recipes, with this project's encoders known to ASR.

    asr.sh --python "python3 -m espnet2_birq.bin.with_encoders" ...

makes asr.sh start Python with ``-m espnet2_birq.bin.with_encoders`` before what it
meant to start. Here this prefix is dropped, and ``-m espnet2.bin.NAME`` replaced by
``-m espnet2_birq.bin.NAME`` for asr_train and asr_inference. Any other command runs
as it is. (asr.sh's other decoders, e.g. ``--use_streaming true``, do not know the
encoders.)
"""

import os
import sys
from collections.abc import Sequence

ESPNET, OURS = "espnet2.bin.", "espnet2_birq.bin."
COMMANDS = ("asr_train", "asr_inference")


def translate(arguments: list[str]) -> list[str]:
    """Replace the module to run, if it is one of COMMANDS.

    Args:
        arguments: Python's arguments: options, then ``-m MODULE`` or a file, then what
            is the program's own business.

    Returns:
        The arguments to run Python with.

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
    """Become the program asked for: same process, environment and streams."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if arguments in ([], ["-h"], ["--help"]):
        print(__doc__.strip())
        return
    os.execv(sys.executable, [sys.executable, *translate(arguments)])


if __name__ == "__main__":
    main()
