"""Put recipes and configurations into the wheel, and their links into the sdist.

They lie outside of the package (egs2/, conf/, local/) and are full of links, some of them
to an ESPnet tree that is not there when a wheel is built. A wheel cannot contain links,
so it gets the files in espnet2_birq/share/ with a list of links, from which
``birq recipes`` makes them again (espnet2_birq/recipes.py). All else is in setup.cfg.
"""

import os
import shutil
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))

from espnet2_birq.recipes import FOLDERS, LINKS, left_behind  # noqa: E402


def recipes() -> tuple[list[str], list[str]]:
    """List files and links of the recipes, relative to the checkout."""
    files, links = [], []
    for top in FOLDERS:
        for folder, below, names in os.walk(top):
            left = left_behind(folder, below + names)
            for name in sorted({*below, *names} - left):
                path = os.path.join(folder, name)
                if os.path.islink(path):
                    links.append(path)
                elif name in names:
                    files.append(path)
            below[:] = set(below) - left  # os.walk follows no links
    return files, links


class BuildPackage(build_py):
    """Adds recipes and configurations to the package."""

    def run(self):
        """Build the package; an editable one finds them in the checkout."""
        super().run()
        if self.editable_mode:
            return
        share = Path(self.build_lib) / "espnet2_birq" / "share"
        shutil.rmtree(share, ignore_errors=True)
        files, links = recipes()
        for path in files:
            (share / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, share / path)
        lines = [f"{path} {os.readlink(path)}\n" for path in links]
        (share / LINKS).write_text("".join(lines), encoding="utf-8")


class SourceDistribution(sdist):
    """Adds recipes and configurations with their links; MANIFEST.in lists all else."""

    def make_release_tree(self, base_dir, files):
        """Make the folder that is packed."""
        super().make_release_tree(base_dir, files)
        own, links = recipes()
        for path in (*own, *links):
            copy = Path(base_dir) / path
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy, follow_symlinks=False)


setup(cmdclass={"build_py": BuildPackage, "sdist": SourceDistribution})
