"""Help of a script whose package is not installed."""

import subprocess
import sys

from checkout import ROOT


def test_speechbrain_build_tells_what_it_is():
    # As without its package, wherever this runs
    code = (
        "import runpy, sys; sys.modules['speechbrain'] = None; "
        "runpy.run_path(sys.argv[1], run_name=sys.argv[2])"
    )
    script = str(ROOT / "bench/speechbrain_build.py")
    command = [sys.executable, "-c", code, script]
    done = subprocess.run([*command, "__main__"], capture_output=True, text=True)
    assert done.returncode == 0 and "pip install speechbrain" in done.stdout
    done = subprocess.run([*command, "imported"], capture_output=True, text=True)
    assert "ConfigError: --build speechbrain needs its package" in done.stderr
