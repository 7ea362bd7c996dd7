"""docs/own_data.md: from a folder of audio to sets that the recipes accept."""

import re

import numpy as np
import soundfile
from checkout import ROOT, run

from espnet2_birq.bin import adopt_data, check_data


def test_a_folder_of_audio(tmp_path):
    page = (ROOT / "docs/own_data.md").read_text()
    lists, pieces = re.findall(r"^```bash\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    audio = tmp_path / "audio"
    for number in range(60):
        folder = audio / f"day{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        noise = 0.1 * np.random.default_rng(number).standard_normal(16000)
        noise = np.tile(noise, 40 if number < 5 else 2)
        soundfile.write(folder / f"talk_{number:03d}.flac", noise, 16000)

    def bash(script):
        script = "set -eo pipefail\n" + script.replace("/recordings", str(audio))
        run(["bash", "-c", script], tmp_path)

    def adopted(name, maximum):
        found = tmp_path / f"adopted_{name}_{maximum}"
        limits = ["--min-seconds", "0.5", "--max-seconds", maximum]
        adopt_data.main([str(tmp_path / name), str(found), *limits])
        check_data.main([str(found), "--full"])
        lists = [x for x in ("segments", "wav.scp") if (found / x).is_file()]
        return len((found / lists[0]).read_text().splitlines())

    bash(lists)
    assert adopted("train", "100") == 58 and adopted("valid", "100") == 2
    bash(pieces)  # three pieces of each 40 s file, one of a 2 s file
    assert adopted("train", "30") + adopted("valid", "30") == 5 * 3 + 55
