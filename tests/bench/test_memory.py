"""bench/memory.py: correctness of its figures."""

import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"
sys.path.insert(0, str(BENCH))

import memory  # noqa: E402

TINY = (
    "--encoder_conf num_blocks=1 --encoder_conf output_size=16 "
    "--encoder_conf attention_heads=8 --encoder_conf linear_units=16"
)


def options(monkeypatch, *command):
    monkeypatch.setattr(sys, "argv", ["memory.py", *command, "--options", TINY])
    memory.main()


def rows(capsys):
    """Return the cells of the printed table, without its header."""
    lines = capsys.readouterr().out.strip().splitlines()[2:]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


@pytest.mark.slow
def test_lengths(monkeypatch, capsys):
    builds = ["--builds", "window", "plain", "--limit", "0.25"]
    options(monkeypatch, "lengths", "--seconds", "5", "60", *builds)
    (_, *short), (seconds, ours, plain) = rows(capsys)
    assert seconds == "60" and all(0 < int(cell) < 200 for cell in short)
    # (1500, 1500) scores of eight heads and (6000, 6000) padding masks exceed the limit.
    assert int(ours) > int(short[0]) and plain == "more than 256"


def test_batch(monkeypatch, capsys):
    options(monkeypatch, "batch", "--memory", "3", "--builds", "full", "plain")
    found = {build: int(planned) for build, planned, measured in rows(capsys)}
    assert found["full"] > 1.1 * found["plain"] > 0


@pytest.mark.parametrize("most", [0, 1, 2, 63, 64, 1000])
@pytest.mark.parametrize("guess", [1, 70, 2000])
def test_bisection(most, guess):
    found = memory.largest(lambda number: number <= most, guess)
    assert 0.97 * most <= found <= most
