import hashlib
import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from refusals import code

from fend.datasets import cifar10, mnist
from fend.datasets.download import FILES, RemoteFile, download
from fend.errors import Invalid


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


@dataclass
class Mirror:
    """A real HTTP server for the files it is given; it can cut a transfer off or refuse ranges."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)  # bytes to send of the next answers
    statuses: list[int] = field(default_factory=list)  # of the next answers, instead of a file
    knows_ranges: bool = True
    ranges: list[str | None] = field(default_factory=list)  # what each request asked for


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    state = Mirror()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            state.ranges.append(asked)
            data = state.files.get(self.path)
            if state.statuses or data is None:
                self.send_error(state.statuses.pop(0) if state.statuses else 404)
                return
            start = 0
            if asked and state.knows_ranges:
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
                if start >= len(data):
                    self.send_error(416)
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            end = start + state.cuts.pop(0) if state.cuts else len(data)
            self.wfile.write(data[start:end])

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


DATA = bytes(range(256)) * 1000


def remote(*urls: str) -> dict[str, tuple[RemoteFile, ...]]:
    return {"set": (RemoteFile("sub/thing.gz", urls, len(DATA), md5(DATA)),)}


@pytest.fixture
def things(mirror) -> dict[str, tuple[RemoteFile, ...]]:
    """A data set of one file, which the mirror has."""
    mirror.files["/thing.gz"] = DATA
    return remote(f"{mirror.url}/thing.gz")


def fetch(data_dir: Path, files: dict[str, tuple[RemoteFile, ...]], attempts: int = 4) -> list:
    """How long it waited between its attempts."""
    waits: list[float] = []
    download("set", data_dir, lambda *_: None, files, attempts, sleep=waits.append)
    return waits


def test_file_arrives_whole_with_progress_and_is_not_fetched_again(mirror, things, tmp_path):
    reports: list[tuple[str, int, int]] = []
    download("set", tmp_path, lambda *report: reports.append(report), things)
    assert (tmp_path / "sub" / "thing.gz").read_bytes() == DATA
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["thing.gz"]
    assert reports[-1] == ("thing.gz", len(DATA), len(DATA))
    fetch(tmp_path, things)
    assert len(mirror.ranges) == 1


def test_broken_transfer_goes_on_where_it_broke_off(mirror, things, tmp_path):
    mirror.cuts = [100_000, 50_000]
    assert fetch(tmp_path, things) == [1.0, 2.0]
    assert (tmp_path / "sub" / "thing.gz").read_bytes() == DATA
    assert mirror.ranges == [None, "bytes=100000-", "bytes=150000-"]


def test_next_run_goes_on_too(mirror, things, tmp_path):
    mirror.cuts = [100_000]
    said = "cut off after 100000 of 256000 bytes"
    with pytest.raises(Invalid, match=said, check=code("download_failed")):
        fetch(tmp_path, things, attempts=1)
    assert not (tmp_path / "sub" / "thing.gz").exists()
    fetch(tmp_path, things, attempts=1)
    assert (tmp_path / "sub" / "thing.gz").read_bytes() == DATA
    assert mirror.ranges[1] == "bytes=100000-"


def test_mirror_without_ranges_starts_over(mirror, things, tmp_path):
    mirror.cuts = [100_000]
    mirror.knows_ranges = False
    fetch(tmp_path, things)
    assert (tmp_path / "sub" / "thing.gz").read_bytes() == DATA


@pytest.mark.parametrize(
    "wrong", [b"wrong", DATA[:-1] + b"!", DATA + b"more"], ids=["short", "altered", "long"]
)
def test_file_that_is_not_the_published_one(mirror, things, tmp_path, wrong):
    mirror.files["/thing.gz"] = wrong
    with pytest.raises(Invalid, check=code("download_failed")):
        fetch(tmp_path, things, attempts=2)
    assert not (tmp_path / "sub" / "thing.gz").exists()


@pytest.mark.parametrize(
    ("name", "left", "mirrored"),
    [
        ("thing.gz", b"damaged", ["thing.gz"]),
        ("thing.gz.part", b"of another file", ["thing.gz"]),
        ("thing.gz.part", DATA[:100_000], ["short.gz", "thing.gz"]),  # longer than the first has
    ],
    ids=["damaged", "other", "longer"],
)
def test_what_an_earlier_run_left_heals(mirror, tmp_path, name, left, mirrored):
    mirror.files |= {"/short.gz": b"an error page", "/thing.gz": DATA}
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / name).write_bytes(left)
    fetch(tmp_path, remote(*(f"{mirror.url}/{file}" for file in mirrored)))
    assert (tmp_path / "sub" / "thing.gz").read_bytes() == DATA


@pytest.mark.usefixtures("things")
def test_second_mirror_is_tried_without_waiting(mirror, tmp_path):
    assert fetch(tmp_path, remote(f"{mirror.url}/gone.gz", f"{mirror.url}/thing.gz")) == []
    assert (tmp_path / "sub" / "thing.gz").read_bytes() == DATA


def test_busy_mirror_is_asked_again_and_one_without_the_file_is_not(mirror, things, tmp_path):
    mirror.statuses = [503, 429]
    assert fetch(tmp_path, things) == [1.0, 2.0]
    with pytest.raises(Invalid, match="HTTP 404", check=code("download_failed")):
        fetch(tmp_path / "other", remote(f"{mirror.url}/gone.gz"))
    assert len(mirror.ranges) == 4


def test_without_a_network_it_says_what_to_put_where(tmp_path):
    url = "http://127.0.0.1:9/thing.gz"  # nobody listens on the discard port
    with pytest.raises(Invalid, check=code("download_failed")) as caught:
        fetch(tmp_path, remote(url), attempts=2)
    for hint in ("thing.gz", url, str(tmp_path / "sub" / "thing.gz"), md5(DATA)):
        assert hint in str(caught.value)


def test_what_cannot_be_done_is_refused(tmp_path):
    (tmp_path / "sub").write_bytes(b"a file where the folder belongs")
    with pytest.raises(Invalid, match="cannot write", check=code("download_failed")):
        fetch(tmp_path, remote("http://127.0.0.1:9/thing.gz"))
    with pytest.raises(Invalid, match="mnist, cifar10", check=code("dataset_unknown")):
        download("imagenet", tmp_path, lambda *_: None)


@pytest.mark.parametrize(
    ("names", "wanted", "found"),
    [
        (["batches/test_batch", "batches/readme.html"], "batches/test_batch",
         {"batches/test_batch"}),
        (["pictures/train/a/1.png", "pictures/val/b/2.png", "other/3.png"], "pictures",
         {"pictures/train/a/1.png", "pictures/val/b/2.png"}),
    ],
    ids=["file", "folder"],
)  # fmt: skip
def test_archive_is_unpacked_and_not_kept(mirror, tmp_path, names, wanted, found):
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(DATA)
            tar.addfile(member, io.BytesIO(DATA))
    packed = archive.getvalue()
    mirror.files["/p.tgz"] = packed
    file = RemoteFile("p.tgz", (f"{mirror.url}/p.tgz",), len(packed), md5(packed), (wanted,))
    for _ in range(2):
        fetch(tmp_path, {"set": (file,)})
    assert len(mirror.ranges) == 1
    there = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {str(path.relative_to(tmp_path)) for path in there} == found
    assert all(path.read_bytes() == DATA for path in there)


def test_published_files_land_where_the_readers_look():
    mnist_names = {file.name.removesuffix(".gz") for file in FILES["mnist"]}
    assert mnist_names == {name for names in mnist.FILES.values() for name in names}
    (archive,) = FILES["cifar10"]
    wanted = {f"cifar-10-batches-py/{name}" for names in cifar10.FILES.values() for name in names}
    assert wanted == set(archive.unpacks_to)
