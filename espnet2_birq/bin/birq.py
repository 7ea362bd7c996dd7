"""All commands of this package under one name: ``birq NAME --help``."""

import ast
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

# Modules that are not commands, or that only scripts call.
OTHERS = {"__init__", "birq", "command", "with_encoders"}


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command by its name; without one, list them.

    Only the module of the command is imported, and by that PyTorch only if it has work
    to do: help is there at once.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    names = sorted({path.stem for path in Path(__file__).parent.glob("*.py")} - OTHERS)
    if not arguments or arguments[0] in ("-h", "--help"):
        width = max(map(len, names))
        print("birq NAME [OPTIONS]; birq NAME --help\n")
        print("\n".join(f"  {name:{width}}  {_summary(name)}" for name in names))
        return
    name = arguments[0].replace("-", "_")
    if name not in names:
        sys.exit(f"birq: error: no command '{arguments[0]}'; `birq` lists them")
    sys.argv = ["birq", *arguments[1:]]
    runpy.run_module(f"espnet2_birq.bin.{name}", run_name="__main__")


def _summary(name: str) -> str:
    """Return the first sentence of a command's docstring, without importing it."""
    text = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
    first = (ast.get_docstring(ast.parse(text)) or "").partition("\n\n")[0]
    for end in (": ``", "; see ", ". "):
        first = first.partition(end)[0]
    return " ".join(first.split()).removesuffix(".")


if __name__ == "__main__":
    main()
