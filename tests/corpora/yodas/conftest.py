"""Synthetic shards in the layouts of both releases."""

import io
import json
import tarfile

import numpy as np
import pytest
import soundfile

from espnet2_birq.bin.prepare_yodas import main

FS = 24000


def noise(video, seconds, rate=FS):
    """Make audio that differs from video to video."""
    seed = int.from_bytes(video.encode()) % 2**32
    return np.random.default_rng(seed).normal(0.0, 0.1, round(seconds * rate))


def encode(samples, rate=FS, kind="WAV"):
    """Make the bytes of an audio file."""
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format=kind, subtype="PCM_16")
    return stream.getvalue()


def write_tar(path, files):
    """Write a .tar.gz with the given names and contents, in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


class Release:
    """A release on disk that tests add shards to."""

    def __init__(self, root, name):
        self.root, self.name = root, name

    def path(self, shard, kind):
        subset, number = shard.split("/")
        text = ".txt" if self.name == "yodas" else ".json"
        ending = {"audio": ".tar.gz", "text": text, "duration": ".txt"}[kind]
        return self.root / "data" / subset / kind / f"{number}{ending}"

    def add(self, shard, videos, rate=FS, extra=None):
        """Add a shard; videos: mapping from id to [(start, end, caption)], in seconds."""
        files, captions, durations = {}, {}, {}
        for video, segments in videos.items():
            whole = noise(video, max((end for _, end, _ in segments), default=2), rate)
            captions[video] = {}
            for index, (start, end, caption) in enumerate(segments):
                times = f"{round(start * 100):08d}-{round(end * 100):08d}"
                name = f"{video}-{index:05d}-{times}"
                captions[video][name] = caption
                if self.name == "yodas":
                    part = whole[round(start * rate) : round(end * rate)]
                    files[f"./{name}.wav"] = encode(part, rate)
                    durations[name] = end - start
            if self.name == "yodas2":
                files[f"{video}.wav"] = encode(whole, rate)
                durations[video] = len(whole) / rate
        write_tar(self.path(shard, "audio"), files | (extra or {}))
        self.write_text(shard, captions)
        path = self.path(shard, "duration")
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(f"{n} {s:.2f}\n" for n, s in durations.items()))

    def write_text(self, shard, captions):
        path = self.path(shard, "text")
        path.parent.mkdir(exist_ok=True)
        if self.name == "yodas":
            lines = [f"{n}\t{c}\n" for v in captions.values() for n, c in v.items()]
            path.write_text("".join(lines))
        else:
            entries = [{"audio_id": v, "text": t} for v, t in captions.items()]
            path.write_text(json.dumps(entries))


@pytest.fixture(params=["yodas", "yodas2"])
def release(request, tmp_path):
    """Empty release of either kind."""
    return Release(tmp_path / request.param, request.param)


@pytest.fixture
def make_release(tmp_path):
    """Make an empty release by name."""
    return lambda name="yodas": Release(tmp_path / name, name)


@pytest.fixture
def prepare(tmp_path):
    """Run the command on a release; return the folder of the sets."""

    def call(release, *options, dest="out"):
        folder = tmp_path / dest
        main(
            ["--yodas", str(release.root), "--dest", str(folder), "--nj", "2"]
            + [str(option) for option in options]
        )
        return folder

    return call
