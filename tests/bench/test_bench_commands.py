"""Commands of bench/README.md: their scripts accept them."""

import json
import re
import shlex
import subprocess
import sys

from checkout import ROOT

# Runs each script up to its parsed arguments.
CODE = """
import argparse, contextlib, io, json, runpy, sys

class Parsed(BaseException):
    pass

def parse(self, *args):
    every(self, *args)
    raise Parsed

every = argparse.ArgumentParser.parse_args
refused = []
for command in json.load(sys.stdin):
    sys.argv, errors = command, io.StringIO()
    argparse.ArgumentParser.parse_args = parse
    try:
        with contextlib.redirect_stderr(errors):
            runpy.run_path(command[0], run_name="__main__")
    except Parsed:
        pass
    except SystemExit:
        refused.append([command, errors.getvalue()[-200:]])
    finally:
        argparse.ArgumentParser.parse_args = every
print(json.dumps(refused))
"""
# Words that stand for one of several choices, or for a file that is read
STANDING_FOR = {"MODE": "running", "CONF": "bench/step.yaml"}


def test_commands_have_their_required_arguments():
    text = (ROOT / "bench/README.md").read_text(encoding="utf-8")
    found = re.findall(r"`(?:env \$\([^)]*\) )?python (bench/[^`]+)`", text)
    commands = [
        [STANDING_FOR.get(word, word.split("|")[0]) for word in shlex.split(command)]
        for command in dict.fromkeys(found)
    ]
    assert len(commands) > 20
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    assert json.loads(done.stdout.splitlines()[-1]) == []
