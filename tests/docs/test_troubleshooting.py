"""Messages in docs/troubleshooting.md are those of this package, or listed as foreign."""

import re

import pytest
from checkout import ROOT

PAGE = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
# Messages of Python, PyTorch, the system and ESPnet
FOREIGN = {
    "No module named 'espnet2_birq'",
    "torch.cuda.is_available()",
    "run.pl doesn't support submitting to the other nodes",
    "Command line option ... not described in conf/slurm.conf",
    "CUDA out of memory",
    "size mismatch for encoder...",
    "Address already in use",
    "dmesg",
    "Killed",
    "check_handoff",
}
HEADS = re.findall(r"^\| (.*?) \| ", PAGE, re.MULTILINE)
MESSAGES = {x for head in HEADS for x in re.findall(r"`([^`]+)`", head)} - FOREIGN


@pytest.fixture(scope="module")
def sources() -> str:
    """Code in which strings continued on the next line are joined."""
    files = [*ROOT.glob("espnet2_birq/**/*.py"), *ROOT.glob("egs2/TEMPLATE/**/*.sh")]
    files += [*ROOT.glob("local/*.sh")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    return re.sub(r'"\s*\n\s*[rf]*"|" \\\n\s*"', "", text)


@pytest.mark.parametrize("message", sorted(MESSAGES))
def test_message_exists(message, sources):
    """All parts but variable ones (names, numbers) occur in the code."""
    parts = re.split(r"\.\.\.|\b[A-Z]{1,4}\b|\d+|'", message)
    parts = [x.strip(" %") for x in parts]
    assert max(map(len, parts)) >= 7, f"{message!r} says too little to be found"
    for part in parts:
        assert part in sources, f"{message!r}: {part!r}"


def test_there_are_messages():
    assert len(MESSAGES) > 15
