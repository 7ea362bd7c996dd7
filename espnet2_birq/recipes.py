"""Recipes and configurations that come with the package.

In a checkout, they are in conf/, egs2/ and local/. A wheel has them in share/, with a
list of their links, since a wheel cannot contain links (setup.py).
"""

import argparse
import os
import shutil
from difflib import get_close_matches
from pathlib import Path

from espnet2_birq.errors import ConfigError

FOLDERS = ("conf", "egs2", "local")
LINKS = "links"  # a wheel's list of links, in lines "path target"
PREFIX = "birq:"


def home() -> Path:
    """Return the folder that has conf/, egs2/ and local/.

    Raises:
        ConfigError: The package is neither in a checkout nor from a wheel.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "share", package.parent):
        if (folder / "egs2" / "TEMPLATE").is_dir():
            return folder
    raise ConfigError(
        f"{package}: installed without recipes and configurations: install the wheel"
    )


def configuration(name: str) -> str:
    """Return the path of a configuration; ``type`` of the options ``--config``.

    Args:
        name: A path, which is returned unchanged, or birq:NAME with NAME relative to
            conf/, e.g. birq:tuning/train_birq_c1.yaml.

    Raises:
        argparse.ArgumentTypeError: There is no such configuration.
    """
    if not name.startswith(PREFIX):
        return name
    folder, wanted = home() / "conf", name.removeprefix(PREFIX)
    names = sorted(str(x.relative_to(folder)) for x in folder.rglob("*.yaml"))
    if wanted not in names:
        close = get_close_matches(wanted, names, n=3, cutoff=0) or names[:3]
        raise argparse.ArgumentTypeError(
            f"no configuration {name!r}; e.g. {', '.join(PREFIX + x for x in close)}"
        )
    return str(folder / wanted)


def name_configurations(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Let ``--config`` of ESPnet's parser accept birq:NAME; return the parser."""
    for action in parser._actions:
        if action.dest == "config":
            action.type = configuration
            action.help = "YAML file, or birq:NAME for conf/NAME of this package"
    return parser


def copy_recipes(dest: Path) -> None:
    """Copy recipes and configurations to a folder, to run and change them there.

    Args:
        dest: Folder that does not exist yet, or is empty.

    Raises:
        ConfigError: `dest` is not empty, or its path contains a space, which Kaldi's
            scripts cannot handle.
    """
    dest = Path(os.path.abspath(dest))
    if any(map(str.isspace, str(dest))):
        raise ConfigError(f"'{dest}': Kaldi's scripts take no path with a space in it")
    if os.path.lexists(dest) and not (dest.is_dir() and not any(dest.iterdir())):
        raise ConfigError(f"{dest}: is not empty; give a new folder")
    source = home()
    part = dest.with_name(f"{dest.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        for folder in FOLDERS:
            shutil.copytree(
                source / folder, part / folder, symlinks=True, ignore=left_behind
            )
        if (source / LINKS).is_file():
            for line in (source / LINKS).read_text(encoding="utf-8").splitlines():
                path, target = line.split()
                (part / path).parent.mkdir(parents=True, exist_ok=True)
                (part / path).symlink_to(target)
        os.replace(part, dest)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def left_behind(folder: str, names: list[str]) -> set[str]:
    """Return names that do not belong to the recipes; ``ignore`` of copytree.

    A recipe consists of links, scripts, a page of results and local/; running it leaves
    data/, exp/ and the like behind.
    """
    path = Path(folder)
    left = {x for x in names if x == "__pycache__" or x.endswith((".log", ".pyc"))}
    if path.parent.parent.name == "egs2":
        left |= {
            name
            for name in names
            if not (path / name).is_symlink()
            and not name.endswith((".sh", ".md"))
            and name != "local"
        }
    return left
