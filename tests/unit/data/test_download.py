"""Downloads from a server on this machine: whole, truncated, wrong, absent."""

import gzip
import hashlib
import http.server
import threading
from dataclasses import replace

import numpy as np
import pytest

from curvescope import data
from curvescope._core.errors import DownloadError
from curvescope.data import catalog, sets

pytest.importorskip("pooch")


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`; of those in `cut` only the first half of what it announced."""

    def __init__(self):
        self.files = {}
        self.cut = set()
        self.asked = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/"


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.lstrip("/")
        self.server.asked.append(name)
        content = self.server.files.get(name)
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        half = len(content) // 2 if name in self.server.cut else len(content)
        self.wfile.write(content[:half])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    """A server of a tiny MNIST, whose hashes stand in for the published ones."""
    files = {}
    for stem, count in (("train", 5), ("t10k", 3)):
        for kind, array in (
            ("images", np.arange(count * 784, dtype=np.uint8).reshape(count, 28, 28)),
            ("labels", np.arange(count, dtype=np.uint8)),
        ):
            shape = b"".join(size.to_bytes(4, "big") for size in array.shape)
            content = bytes([0, 0, 8, array.ndim]) + shape + array.tobytes()
            files[f"{stem}-{kind}-idx{array.ndim}-ubyte.gz"] = gzip.compress(content)
    hashes = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    entry = catalog.CATALOG["mnist"]
    tiny = replace(
        entry,
        sizes={"train": 5, "test": 3},
        layouts=(replace(entry.layouts[0], hashes=hashes),),
        downloads={
            split: {name: hashes[name] for name in names}
            for split, names in entry.layouts[0].files.items()
        },
    )
    monkeypatch.setitem(sets.CATALOG, "mnist", tiny)
    server = Server()
    server.files = files
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_absent_files_are_downloaded_once_and_are_official(tmp_path, server):
    for _ in range(2):
        loaded = data.load("mnist", root=tmp_path, base_url=server.url)

        assert loaded.official
        assert loaded.notes == ()
        assert len(loaded) == 5
    assert server.asked == ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"]
    names = sorted(path.name for path in (tmp_path / "mnist").iterdir())
    assert names == sorted(server.asked)


def test_fetch_gets_both_splits(tmp_path, server):
    paths = data.fetch("mnist", root=tmp_path, base_url=server.url)

    assert len(paths) == 4
    assert {path.read_bytes() for path in paths} == set(server.files.values())


def test_only_what_is_absent_is_downloaded(tmp_path, server):
    (tmp_path / "mnist").mkdir()
    name = "train-labels-idx1-ubyte.gz"
    mine = gzip.compress(b"\0\0\x08\x01\0\0\0\x05" + bytes(5))
    (tmp_path / "mnist" / name).write_bytes(mine)

    loaded = data.load("mnist", root=tmp_path, base_url=server.url)

    assert server.asked == ["train-images-idx3-ubyte.gz"]
    assert not loaded.official
    assert loaded.notes[0].endswith(name)
    assert (tmp_path / "mnist" / name).read_bytes() == mine


def _failed(tmp_path, server, message):
    with pytest.raises(DownloadError, match=message) as caught:
        data.load("mnist", root=tmp_path / "new" / "root", base_url=server.url)
    assert str(tmp_path / "new" / "root" / "mnist") in str(caught.value)
    assert list(tmp_path.iterdir()) == [], "something was left half-written"


def test_a_truncated_download_is_one_error_and_leaves_nothing(tmp_path, server):
    server.cut.add("train-images-idx3-ubyte.gz")

    _failed(tmp_path, server, "could not be downloaded whole")


def test_a_truncation_that_the_server_hides_is_found_by_the_hash(tmp_path, server):
    name = "train-images-idx3-ubyte.gz"
    server.files[name] = server.files[name][:-10]

    _failed(tmp_path, server, "(?s)is not the published file .*hash")


def test_a_wrong_file_is_one_error_and_leaves_nothing(tmp_path, server):
    server.files["train-images-idx3-ubyte.gz"] = b"<html>Please log in</html>"

    _failed(tmp_path, server, "(?s)is not the published file .*hash")


def test_an_absent_file_and_an_absent_server_are_one_error(tmp_path, server):
    server.files.clear()

    _failed(tmp_path, server, "404")
    with pytest.raises(DownloadError, match="could not be downloaded"):
        data.fetch("mnist", root=tmp_path, base_url="http://127.0.0.1:1/")


def test_what_was_downloaded_whole_is_kept_for_the_next_try(tmp_path, server):
    server.cut.add("train-labels-idx1-ubyte.gz")

    with pytest.raises(DownloadError):
        data.load("mnist", root=tmp_path, base_url=server.url)

    left = [path.name for path in (tmp_path / "mnist").iterdir()]
    assert left == ["train-images-idx3-ubyte.gz"]
    server.cut.clear()
    assert data.load("mnist", root=tmp_path, base_url=server.url).official


def test_the_second_mirror_is_tried_when_the_first_fails(tmp_path, server, monkeypatch):
    tiny = sets.CATALOG["mnist"]
    mirrors = ("http://127.0.0.1:1/", server.url)
    monkeypatch.setitem(sets.CATALOG, "mnist", replace(tiny, mirrors=mirrors))

    assert data.load("mnist", root=tmp_path).official


def test_without_a_root_the_users_cache_is_used(tmp_path, server, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    paths = data.fetch("mnist", base_url=server.url)

    assert all(path.is_relative_to(tmp_path / "curvescope" / "mnist") for path in paths)
