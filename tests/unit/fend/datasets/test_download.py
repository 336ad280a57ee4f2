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

from fend.datasets import (
    cifar10,
    mnist,
)
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


class TestDownload:
    DATA = bytes(range(256)) * 1000

    def remote(self, *urls: str, data: bytes | None = None) -> dict[str, tuple[RemoteFile, ...]]:
        data = self.DATA if data is None else data
        return {"set": (RemoteFile("sub/thing.gz", urls, len(data), md5(data)),)}

    def fetch(
        self, data_dir: Path, files: dict[str, tuple[RemoteFile, ...]], attempts: int = 4
    ) -> list[float]:
        waits: list[float] = []
        download("set", data_dir, lambda *_: None, files, attempts, sleep=waits.append)
        return waits

    def test_file_arrives_whole_with_progress(self, mirror: Mirror, tmp_path: Path) -> None:
        mirror.files["/thing.gz"] = self.DATA
        reports: list[tuple[str, int, int]] = []
        files = self.remote(f"{mirror.url}/thing.gz")
        download("set", tmp_path, lambda *report: reports.append(report), files)
        assert (tmp_path / "sub" / "thing.gz").read_bytes() == self.DATA
        assert [path.name for path in (tmp_path / "sub").iterdir()] == ["thing.gz"]
        assert reports[-1] == ("thing.gz", len(self.DATA), len(self.DATA))

    def test_what_is_there_is_not_fetched_again(self, mirror: Mirror, tmp_path: Path) -> None:
        mirror.files["/thing.gz"] = self.DATA
        files = self.remote(f"{mirror.url}/thing.gz")
        self.fetch(tmp_path, files)
        self.fetch(tmp_path, files)
        assert len(mirror.ranges) == 1

    def test_damaged_file_is_fetched_again(self, mirror: Mirror, tmp_path: Path) -> None:
        mirror.files["/thing.gz"] = self.DATA
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub" / "thing.gz").write_bytes(b"damaged")
        self.fetch(tmp_path, self.remote(f"{mirror.url}/thing.gz"))
        assert (tmp_path / "sub" / "thing.gz").read_bytes() == self.DATA

    def test_broken_transfer_goes_on_where_it_broke_off(
        self, mirror: Mirror, tmp_path: Path
    ) -> None:
        mirror.files["/thing.gz"] = self.DATA
        mirror.cuts = [100_000, 50_000]
        waits = self.fetch(tmp_path, self.remote(f"{mirror.url}/thing.gz"))
        assert (tmp_path / "sub" / "thing.gz").read_bytes() == self.DATA
        assert mirror.ranges == [None, "bytes=100000-", "bytes=150000-"]
        assert waits == [1.0, 2.0]

    def test_next_run_goes_on_too(self, mirror: Mirror, tmp_path: Path) -> None:
        mirror.files["/thing.gz"] = self.DATA
        mirror.cuts = [100_000]
        files = self.remote(f"{mirror.url}/thing.gz")
        with pytest.raises(
            Invalid, match="cut off after 100000 of 256000 bytes", check=code("download_failed")
        ):
            self.fetch(tmp_path, files, attempts=1)
        assert not (tmp_path / "sub" / "thing.gz").exists()
        self.fetch(tmp_path, files, attempts=1)
        assert (tmp_path / "sub" / "thing.gz").read_bytes() == self.DATA
        assert mirror.ranges[1] == "bytes=100000-"

    def test_mirror_without_ranges_starts_over(self, mirror: Mirror, tmp_path: Path) -> None:
        mirror.files["/thing.gz"] = self.DATA
        mirror.cuts = [100_000]
        mirror.knows_ranges = False
        self.fetch(tmp_path, self.remote(f"{mirror.url}/thing.gz"))
        assert (tmp_path / "sub" / "thing.gz").read_bytes() == self.DATA

    @pytest.mark.parametrize(
        "wrong", [b"wrong", DATA[:-1] + b"!", DATA + b"more"], ids=["short", "altered", "long"]
    )
    def test_file_that_is_not_the_published_one(
        self, mirror: Mirror, tmp_path: Path, wrong: bytes
    ) -> None:
        mirror.files["/thing.gz"] = wrong
        with pytest.raises(Invalid, check=code("download_failed")) as caught:
            self.fetch(tmp_path, self.remote(f"{mirror.url}/thing.gz"), attempts=2)
        assert caught.value.code == "download_failed"
        assert not (tmp_path / "sub" / "thing.gz").exists()

    def test_stale_part_of_another_file_heals(self, mirror: Mirror, tmp_path: Path) -> None:
        mirror.files["/thing.gz"] = self.DATA
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub" / "thing.gz.part").write_bytes(b"of another file")
        self.fetch(tmp_path, self.remote(f"{mirror.url}/thing.gz"))
        assert (tmp_path / "sub" / "thing.gz").read_bytes() == self.DATA

    def test_part_longer_than_the_mirrors_file_heals(self, mirror: Mirror, tmp_path: Path) -> None:
        mirror.files["/short.gz"] = b"an error page"
        mirror.files["/thing.gz"] = self.DATA
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub" / "thing.gz.part").write_bytes(self.DATA[:100_000])
        self.fetch(tmp_path, self.remote(f"{mirror.url}/short.gz", f"{mirror.url}/thing.gz"))
        assert (tmp_path / "sub" / "thing.gz").read_bytes() == self.DATA

    def test_second_mirror_is_tried_without_waiting(self, mirror: Mirror, tmp_path: Path) -> None:
        mirror.files["/thing.gz"] = self.DATA
        waits = self.fetch(tmp_path, self.remote(f"{mirror.url}/gone.gz", f"{mirror.url}/thing.gz"))
        assert (tmp_path / "sub" / "thing.gz").read_bytes() == self.DATA
        assert waits == []

    def test_busy_mirror_is_asked_again_and_one_without_the_file_is_not(
        self, mirror: Mirror, tmp_path: Path
    ) -> None:
        mirror.files["/thing.gz"] = self.DATA
        mirror.statuses = [503, 429]
        assert self.fetch(tmp_path, self.remote(f"{mirror.url}/thing.gz")) == [1.0, 2.0]
        with pytest.raises(Invalid, match="HTTP 404", check=code("download_failed")):
            self.fetch(tmp_path / "other", self.remote(f"{mirror.url}/gone.gz"))
        assert len(mirror.ranges) == 4

    def test_without_a_network_it_says_what_to_put_where(self, tmp_path: Path) -> None:
        url = "http://127.0.0.1:9/thing.gz"  # nobody listens on the discard port
        with pytest.raises(Invalid, check=code("download_failed")) as caught:
            self.fetch(tmp_path, self.remote(url), attempts=2)
        for hint in ("thing.gz", url, str(tmp_path / "sub" / "thing.gz"), md5(self.DATA)):
            assert hint in str(caught.value)

    def test_unwritable_directory(self, tmp_path: Path) -> None:
        (tmp_path / "sub").write_bytes(b"a file where the folder belongs")
        with pytest.raises(Invalid, match="cannot write", check=code("download_failed")):
            self.fetch(tmp_path, self.remote("http://127.0.0.1:9/thing.gz"))

    def test_unknown_name(self, tmp_path: Path) -> None:
        with pytest.raises(Invalid, match="mnist, cifar10", check=code("dataset_unknown")):
            download("imagenet", tmp_path, lambda *_: None)

    def test_archive_is_unpacked_and_not_kept(self, mirror: Mirror, tmp_path: Path) -> None:
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w:gz") as tar:
            for name, data in (("test_batch", self.DATA), ("readme.html", b"not wanted")):
                member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        packed = archive.getvalue()
        mirror.files["/c.tar.gz"] = packed
        wanted = "cifar-10-batches-py/test_batch"
        remote = RemoteFile(
            "c.tar.gz", (f"{mirror.url}/c.tar.gz",), len(packed), md5(packed), (wanted,)
        )
        for _ in range(2):
            self.fetch(tmp_path, {"set": (remote,)})
        assert len(mirror.ranges) == 1
        assert (tmp_path / wanted).read_bytes() == self.DATA
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / wanted]

    def test_folder_of_an_archive_appears_whole(self, mirror: Mirror, tmp_path: Path) -> None:
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w:gz") as tar:
            for name in ("pictures/train/a/1.png", "pictures/val/b/2.png", "other/3.png"):
                member = tarfile.TarInfo(name)
                member.size = len(self.DATA)
                tar.addfile(member, io.BytesIO(self.DATA))
        packed = archive.getvalue()
        mirror.files["/p.tgz"] = packed
        urls = (f"{mirror.url}/p.tgz",)
        remote = RemoteFile("p.tgz", urls, len(packed), md5(packed), ("pictures",))
        for _ in range(2):
            self.fetch(tmp_path, {"set": (remote,)})
        assert len(mirror.ranges) == 1
        found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
        assert found == {"pictures/train/a/1.png", "pictures/val/b/2.png"}

    def test_published_files_land_where_the_readers_look(self) -> None:
        mnist_names = {file.name.removesuffix(".gz") for file in FILES["mnist"]}
        assert mnist_names == {name for names in mnist.FILES.values() for name in names}
        (archive,) = FILES["cifar10"]
        wanted = {
            f"cifar-10-batches-py/{name}" for names in cifar10.FILES.values() for name in names
        }
        assert wanted == set(archive.unpacks_to)
