"""Downloads from a real HTTP server that interrupts and sends wrong data."""

import hashlib
import http.server
import os
import shutil
import subprocess
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
DOWNLOAD = ROOT / "local" / "download.sh"
LOCAL = ROOT / "egs2" / "librispeech" / "ssl1" / "local"
CONTENT = np.random.default_rng(0).bytes(300_000)


class Handler(http.server.BaseHTTPRequestHandler):
    """Server of a folder, with ranges; breaks off the first answer if asked to."""

    def do_GET(self):
        """Send the requested part of a file."""
        server = self.server
        path = server.folder / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        start = 0
        if given := self.headers.get("Range"):
            start = int(given.removeprefix("bytes=").removesuffix("-"))
        server.requests.append((self.path, start))
        if start >= len(content):
            self.send_response(416)
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            last = len(content) - 1
            self.send_header("Content-Range", f"bytes {start}-{last}/{len(content)}")
        self.end_headers()
        if server.break_at:
            self.wfile.write(content[start : server.break_at])
            server.break_at = None
            self.close_connection = True
        else:
            self.wfile.write(content[start:])

    def log_message(self, *args):
        """Log nothing."""


@pytest.fixture
def server(tmp_path):
    """Server of the folder tmp_path/web."""
    if not shutil.which("wget"):
        pytest.skip("downloads need the program wget")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.folder = tmp_path / "web"
        server.folder.mkdir()
        server.requests, server.break_at = [], None
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def run(*command):
    """Run a command; return status and output."""
    done = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, "no_proxy": "127.0.0.1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


def make_list(tmp_path, server, checksum, name="a.bin"):
    """Serve a file and write a list that names it."""
    (server.folder / name).write_bytes(CONTENT)
    path = tmp_path / "list.txt"
    path.write_text(f"# a comment\n{checksum} {server.url}/{name} sub/{name}")
    return path


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_broken_connection_is_continued(tmp_path, server, algorithm):
    checksum = hashlib.new(algorithm, CONTENT).hexdigest()
    files = make_list(tmp_path, server, checksum)
    server.break_at = 100_000
    status, said = run(DOWNLOAD, files, tmp_path / "out")
    assert status == 0, said
    assert (tmp_path / "out" / "sub" / "a.bin").read_bytes() == CONTENT
    assert server.requests == [("/a.bin", 0), ("/a.bin", 100_000)]
    assert "1 fetched, 0 of 1 there" in said
    status, said = run(DOWNLOAD, files, tmp_path / "out")
    assert status == 0 and len(server.requests) == 2
    assert "0 fetched, 1 of 1 there" in said


@pytest.mark.parametrize("there", [100_000, len(CONTENT)])
def test_interrupted_command_is_continued(tmp_path, server, there):
    # Killed in the middle, or after the last byte but before checking the checksum.
    files = make_list(tmp_path, server, hashlib.md5(CONTENT).hexdigest())
    (tmp_path / "out" / "sub").mkdir(parents=True)
    (tmp_path / "out" / "sub" / "a.bin.part").write_bytes(CONTENT[:there])
    status, said = run(DOWNLOAD, files, tmp_path / "out")
    assert status == 0, said
    assert (tmp_path / "out" / "sub" / "a.bin").read_bytes() == CONTENT
    assert server.requests == [("/a.bin", there)]


def test_wrong_checksum_leaves_nothing(tmp_path, server):
    files = make_list(tmp_path, server, hashlib.md5(b"other").hexdigest())
    status, said = run(DOWNLOAD, files, tmp_path / "out")
    assert status == 1
    assert "download.sh: error: " in said and "repeat the command" in said
    assert list((tmp_path / "out" / "sub").iterdir()) == []


@pytest.mark.parametrize("checksum", ["abc", "x" * 32, "0" * 40])
def test_what_is_no_checksum_is_not_taken_for_none(tmp_path, server, checksum):
    files = make_list(tmp_path, server, checksum)
    status, said = run(DOWNLOAD, files, tmp_path / "out")
    assert status == 1 and f"{checksum} is no checksum" in said
    assert not server.requests


def test_without_a_checksum_a_gz_must_be_whole(tmp_path, server):
    files = make_list(tmp_path, server, "-", "a.gz")  # random bytes, not gzip
    status, said = run(DOWNLOAD, files, tmp_path / "out")
    assert status == 1 and "removed" in said
    files = make_list(tmp_path, server, "-", "a.bin")
    assert run(DOWNLOAD, files, tmp_path / "out")[0] == 0


def test_missing_file_and_dry_run(tmp_path, server):
    files = make_list(tmp_path, server, "-")
    status, said = run(DOWNLOAD, "--dry-run", files, tmp_path / "out")
    assert status == 0 and "1 to fetch" in said
    assert not server.requests and not (tmp_path / "out").exists()
    files.write_text(files.read_text().replace("a.bin", "b.bin"))
    status, said = run(DOWNLOAD, files, tmp_path / "out")
    assert status == 1 and "b.bin: not downloaded; repeat the command" in said
    assert not (tmp_path / "out" / "sub" / "b.bin").exists()


def test_list_that_names_no_file(tmp_path):
    (tmp_path / "list.txt").write_text("# CHECKSUM URL PATH\n")
    status, said = run(DOWNLOAD, tmp_path / "list.txt", tmp_path / "out")
    assert status == 1 and "list.txt: names no file" in said
    status, said = run(LOCAL / "download.sh", "--list")
    assert status == 1 and "DEST and PART are required" in said


@pytest.fixture
def openslr(tmp_path, server):
    """Command for a server of two parts and a language model, with their list."""
    lines = ["# CHECKSUM URL PATH"]
    for part in ("dev-clean", "test-other"):
        chapter = tmp_path / part / "LibriSpeech" / part / "84" / "121"
        chapter.mkdir(parents=True)
        (chapter / "84-121.trans.txt").write_text("84-121-0000 A\n")
        (chapter.parents[2] / "SPEAKERS.TXT").write_text("84 | F | dev-clean\n")
        archive = server.folder / f"{part}.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(chapter.parents[2], "LibriSpeech")
        checksum = hashlib.md5(archive.read_bytes()).hexdigest()
        lines.append(f"{checksum} {server.url}/{part}.tar.gz {part}.tar.gz")
    (server.folder / "4-gram.arpa.gz").write_bytes(b"")
    lines.append(f"- {server.url}/4-gram.arpa.gz 4-gram.arpa.gz")
    (tmp_path / "openslr.txt").write_text("\n".join(lines) + "\n")
    return [LOCAL / "download.sh", "--list", tmp_path / "openslr.txt", tmp_path / "out"]


def test_parts_are_unpacked_whole(tmp_path, server, openslr):
    # Remains of an interrupted unpacking are not mistaken for the part.
    (tmp_path / "out" / ".unpack.dev-clean" / "LibriSpeech" / "x").mkdir(parents=True)
    status, said = run(*openslr, "dev-clean", "test-other")
    assert status == 0, said
    corpus = tmp_path / "out" / "LibriSpeech"
    assert sorted(path.name for path in corpus.iterdir()) == [
        "SPEAKERS.TXT",
        "dev-clean",
        "test-other",
    ]
    text = corpus / "test-other" / "84" / "121" / "84-121.trans.txt"
    assert text.read_text() == "84-121-0000 A\n"
    assert not list((tmp_path / "out").glob(".unpack*"))
    # The archives are no longer needed.
    (tmp_path / "out" / "dev-clean.tar.gz").unlink()
    assert run(*openslr, "dev-clean", "test-other")[0] == 0
    assert len(server.requests) == 2


def test_archive_that_cannot_be_unpacked_leaves_no_part(tmp_path, openslr, server):
    archive = server.folder / "dev-clean.tar.gz"
    archive.write_bytes(archive.read_bytes()[:-50])
    path = tmp_path / "openslr.txt"
    checksum = hashlib.md5(archive.read_bytes()).hexdigest()
    lines = [
        line if "dev-clean" not in line else f"{checksum} {line.split(maxsplit=1)[1]}"
        for line in path.read_text().splitlines()
    ]
    path.write_text("\n".join(lines) + "\n")
    status, said = run(*openslr, "dev-clean")
    assert status == 1 and "cannot be unpacked" in said
    assert not (tmp_path / "out" / "LibriSpeech" / "dev-clean").exists()


def test_unknown_part_and_help(tmp_path, openslr):
    status, said = run(*openslr, "dev")
    assert status == 1 and "dev: not in " in said
    status, said = run(openslr[0], "--help")
    assert status == 0 and "4-gram" in said and "set -e" not in said


def test_list_has_the_whole_corpus():
    lines = (LOCAL / "openslr.txt").read_text().splitlines()
    rows = [line.split() for line in lines if not line.startswith("#")]
    assert [row[2] for row in rows] == [
        "train-clean-100.tar.gz",
        "train-clean-360.tar.gz",
        "train-other-500.tar.gz",
        "dev-clean.tar.gz",
        "dev-other.tar.gz",
        "test-clean.tar.gz",
        "test-other.tar.gz",
        "4-gram.arpa.gz",
    ]
    for _, url, path in rows:
        assert url.startswith("https://www.openslr.org/resources/1")
        assert url.endswith(f"/{path}")
    # Compare with torchaudio, whose authors checked the archives themselves.
    known = pytest.importorskip("torchaudio.datasets.librispeech")._CHECKSUMS
    for checksum, url, path in rows[:-1]:
        assert known[url.replace("https://", "http://")] == checksum, path
    assert rows[-1][0] == "-"
