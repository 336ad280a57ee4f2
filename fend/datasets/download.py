"""Download of the published data sets: checked by digest, resumed after a broken transfer.

A file is written to NAME.part and renamed only when its size and digest are the published ones, so
a file with its final name is complete. Mirrors and digests are torchvision's; the second MNIST
mirror is TensorFlow Datasets'.
"""

import hashlib
import http.client
import os
import ssl
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fend.datasets import cifar10, imagenette, mnist
from fend.errors import Invalid

Progress = Callable[[str, int, int], None]
"""Callback with a file's name, the number of bytes received, and its size in bytes."""

TIMEOUT_S = 30.0
_CHUNK_BYTES = 2**16
_NETWORK_ERRORS = (
    urllib.error.URLError,
    http.client.HTTPException,
    ConnectionError,
    TimeoutError,
    ssl.SSLError,
)


@dataclass(frozen=True)
class RemoteFile:
    """A published file.

    Attributes:
        path: its place, relative to the data directory.
        urls: its mirrors, best first.
        size_bytes, md5: its published size and digest.
        unpacks_to: for a tar archive, the members to unpack, files or folders, named relative to
            the data directory as in the archive; the archive itself is not kept.
    """

    path: str
    urls: tuple[str, ...]
    size_bytes: int
    md5: str
    unpacks_to: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return Path(self.path).name


def _mnist_file(name: str, size_bytes: int, md5: str) -> RemoteFile:
    mirrors = (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    )
    urls = tuple(f"{mirror}{name}.gz" for mirror in mirrors)
    return RemoteFile(f"{mnist.FOLDER}/{name}.gz", urls, size_bytes, md5)


FILES: Mapping[str, tuple[RemoteFile, ...]] = {
    "mnist": (
        _mnist_file("train-images-idx3-ubyte", 9_912_422, "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
        _mnist_file("train-labels-idx1-ubyte", 28_881, "d53e105ee54ea40749a09fcbcd1e9432"),
        _mnist_file("t10k-images-idx3-ubyte", 1_648_877, "9fb629c4189551a2d022fa330f9573f3"),
        _mnist_file("t10k-labels-idx1-ubyte", 4_542, "ec29112dd5afa0611ce80d1b7f02629c"),
    ),
    "cifar10": (
        RemoteFile(
            path="cifar-10-python.tar.gz",
            urls=("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",),
            size_bytes=170_498_071,
            md5="c58f30108f718f92721af3b95e74349a",
            unpacks_to=tuple(f"{cifar10.FOLDER}/{name}" for name in cifar10.MD5S),
        ),
    ),
    "imagenette": (
        RemoteFile(
            path="imagenette2-320.tgz",
            urls=("https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-320.tgz",),
            size_bytes=341_663_724,
            md5="3df6f0d01a2c9592104656642f5e78a3",
            unpacks_to=(imagenette.FOLDERS[0],),
        ),
    ),
}


def download(
    name: str,
    data_dir: Path,
    progress: Progress,
    files: Mapping[str, tuple[RemoteFile, ...]] = FILES,
    attempts: int = 4,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Download the files of the data set `name` that are not in `data_dir` yet.

    Each attempt tries every mirror; between attempts it waits 1, 2, 4, ... seconds.

    Raises:
        Invalid: `dataset_unknown` when `name` cannot be fetched; `download_failed`, with the URLs
            and the file's place, when no mirror delivers it.
    """
    if name not in files:
        raise Invalid(
            f"{name!r} cannot be fetched; these can: {', '.join(files)}", code="dataset_unknown"
        )
    for file in files[name]:
        try:
            if not _is_present(file, data_dir):
                _fetch(file, data_dir / file.path, progress, attempts, sleep)
                _unpack(file, data_dir)
        except OSError as error:
            raise Invalid(
                f"cannot write {data_dir / file.path}: {error}", code="download_failed"
            ) from error


def _is_present(file: RemoteFile, data_dir: Path) -> bool:
    """Whether the file that readers need exists; readers check the digest of unpacked files."""
    if file.unpacks_to:
        return all((data_dir / path).exists() for path in file.unpacks_to)
    path = data_dir / file.path
    return path.with_suffix("").is_file() or (path.is_file() and _md5(path) == file.md5)


def _fetch(
    file: RemoteFile,
    target: Path,
    progress: Progress,
    attempts: int,
    sleep: Callable[[float], None],
) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    urls = list(file.urls)
    problems: dict[str, str] = {}
    for attempt in range(attempts):
        if attempt > 0:
            sleep(2.0 ** (attempt - 1))
        for url in tuple(urls):
            try:
                _transfer(url, part, file, progress)
            except urllib.error.HTTPError as error:
                problems[url] = f"HTTP {error.code}"
                if error.code == 416:  # our part is longer than the mirror's file
                    part.unlink(missing_ok=True)
                elif 400 <= error.code < 500 and error.code not in (408, 429):
                    urls.remove(url)
                continue
            except _NETWORK_ERRORS as error:
                problems[url] = str(getattr(error, "reason", error)) or type(error).__name__
                continue
            if part.stat().st_size == file.size_bytes and _md5(part) == file.md5:
                os.replace(part, target)
                return
            problems[url] = "not the published file: its size or md5 differs"
            part.unlink()
        if not urls:
            break
    reasons = "; ".join(f"{url} ({reason})" for url, reason in problems.items())
    raise Invalid(
        f"cannot fetch {file.name}: {reasons}. Without a network, get it elsewhere "
        f"(md5 {file.md5}, {file.size_bytes} bytes) and put it at {target}",
        code="download_failed",
    )


def _transfer(url: str, part: Path, file: RemoteFile, progress: Progress) -> None:
    """Append to `part` up to its full size, or one byte more if the mirror's file is too long."""
    have_bytes = part.stat().st_size if part.exists() else 0
    if have_bytes >= file.size_bytes:
        return
    request = urllib.request.Request(url, headers={"User-Agent": "fend"})
    if have_bytes:
        request.add_header("Range", f"bytes={have_bytes}-")
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
        resumes = response.status == 206 and response.headers.get("Content-Range", "").startswith(
            f"bytes {have_bytes}-"
        )
        if not resumes:
            have_bytes = 0
        with part.open("ab" if resumes else "wb") as out:
            while have_bytes <= file.size_bytes and (chunk := response.read(_CHUNK_BYTES)):
                out.write(chunk)
                have_bytes += len(chunk)
                progress(file.name, min(have_bytes, file.size_bytes), file.size_bytes)
    if have_bytes < file.size_bytes:
        raise ConnectionError(f"cut off after {have_bytes} of {file.size_bytes} bytes")


def _unpack(file: RemoteFile, data_dir: Path) -> None:
    if not file.unpacks_to:
        return
    archive_path = data_dir / file.path
    with (
        tarfile.open(archive_path) as archive,
        tempfile.TemporaryDirectory(dir=data_dir) as staging,
    ):
        members = archive.getmembers()
        for path in file.unpacks_to:
            wanted = [item for item in members if f"{item.name}/".startswith(f"{path}/")]
            archive.extractall(staging, wanted, filter="data")
            (data_dir / path).parent.mkdir(parents=True, exist_ok=True)
            os.replace(Path(staging) / path, data_dir / path)
    archive_path.unlink()


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
