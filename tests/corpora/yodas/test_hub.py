"""Downloads, from a small server that answers as the Hugging Face hub does."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest

from espnet2_birq.bin.prepare_yodas import main
from espnet2_birq.datadir.kaldi import read_scp

from .test_resume import tree
from .test_sets import ONE, error_of

REVISION = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """Serves self.server.root as the dataset espnet/yodas2."""

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append((self.command, path))
        api, files = "/api/datasets/espnet/yodas2", "/datasets/espnet/yodas2/resolve/"
        if path in (api, f"{api}/revision/{REVISION}"):
            self.reply(body, {"id": "espnet/yodas2", "sha": REVISION})
        elif path.startswith(f"{api}/tree/{REVISION}/"):
            folder = self.server.root / path.removeprefix(f"{api}/tree/{REVISION}/")
            root = self.server.root
            entries = [
                {
                    "type": "directory" if p.is_dir() else "file",
                    "path": str(p.relative_to(root)),
                    "oid": "1",
                    "size": p.stat().st_size,
                }
                for p in sorted(folder.iterdir())
            ]
            self.reply(body, entries)
        elif path.startswith(f"{files}{REVISION}/"):
            file = self.server.root / path.removeprefix(f"{files}{REVISION}/")
            if file.is_file():
                self.reply(body, file.read_bytes())
            else:
                self.reply(body, {"error": "Entry not found"}, 404)
        else:
            self.reply(body, {"error": "Repository not found"}, 404)

    def reply(self, body, content, status=200):
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        self.send_response(status)
        if status == 404:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("X-Repo-Commit", REVISION)
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(make_release, monkeypatch):
    """Server with a release, used by huggingface_hub instead of the hub."""
    release = make_release("yodas2")
    for number in range(4):
        release.add(f"en000/{number:08d}", {f"video{number}": ONE})
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.root, server.asked = release.root, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    # HF_ENDPOINT would have no effect, since it is read when huggingface_hub is imported.
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template
    )
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", url)
    yield release, server
    server.shutdown()
    server.server_close()


def download(folder, *options):
    main(["--hub", "yodas2", "--dest", str(folder), "--valid_hours", "0", *options])


def test_downloaded_shards_are_those_of_a_copy(hub, prepare, tmp_path):
    release, server = hub
    release.path("en000/00000002", "text").unlink()
    download(tmp_path / "hub", "--parts", "en")
    copy = prepare(release, "--parts", "en", "--valid_hours", 0)
    for name in ("utt2num_samples", "skipped"):
        content = (tmp_path / "hub" / "yodas" / name).read_bytes()
        assert content == (copy / "yodas" / name).read_bytes()
    assert len(read_scp(tmp_path / "hub/yodas/wav.scp")) == 6
    head = json.loads((tmp_path / "hub/yodas/manifest.jsonl").open().readline())
    assert head["revision"] == REVISION
    # Downloads are removed, and not repeated.
    assert not (tmp_path / "hub/shards/downloads_yodas2").exists()
    before, count = tree(tmp_path / "hub"), len(server.asked)
    download(tmp_path / "hub", "--parts", "en")
    assert tree(tmp_path / "hub") == before
    again = {path for _, path in server.asked[count:] if "/resolve/" in path}
    assert {path[-15:] for path in again} == {"00000002.tar.gz", "t/00000002.json"}


def test_shards_of_another_commit_are_not_reused(hub, tmp_path):
    release, _ = hub
    download(tmp_path / "out", "--parts", "en")
    release.add("en000/00000001", {"another": [(0, 20, "x")]})
    message = error_of(download, tmp_path / "out", "--parts", "en", "--name", "b")
    assert "a different size than when it was prepared" in message
    assert not (tmp_path / "out" / "b").exists()


def test_manifest_names_the_revision(hub, tmp_path):
    _, server = hub
    download(tmp_path / "one", "--parts", "en", "--hours", "0.0005", "--keep_downloads")
    assert list(
        (tmp_path / "one/shards/downloads_yodas2").glob("data/en000/audio/*.gz")
    )
    manifest = tmp_path / "one/yodas/manifest.jsonl"
    server.asked.clear()
    main(
        ["--hub", "yodas2", "--dest", str(tmp_path / "two")]
        + ["--manifest", str(manifest)]
    )
    assert (tmp_path / "two/yodas/manifest.jsonl").read_bytes() == manifest.read_bytes()
    assert server.asked[0][1].endswith(f"/revision/{REVISION}")


def test_no_network(hub, tmp_path):
    _, server = hub
    server.shutdown()
    server.server_close()
    message = error_of(download, tmp_path / "out", "--parts", "en")
    assert "espnet/yodas2: not reached" in message and "--yodas DIR" in message


def test_network_is_lost_on_the_way(hub, tmp_path, monkeypatch):
    def lost(*_, **__):
        raise OSError("connection reset")

    path = "espnet2_birq.corpora.yodas.source.hf_hub_download"
    with monkeypatch.context() as patch:
        patch.setattr(path, lost)
        message = error_of(download, tmp_path / "out", "--parts", "en")
        assert "not reached (OSError: connection reset)" in message
    download(tmp_path / "out", "--parts", "en")
    assert len(read_scp(tmp_path / "out/yodas/wav.scp")) == 8
