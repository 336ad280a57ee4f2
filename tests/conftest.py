"""A small real bundle, and the service around it: in this process, and as a process of its own."""

import io
import os
import queue
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import small_bundles
import torch
import uvicorn
from fastapi import FastAPI
from PIL import Image
from torch.nn import functional as F
from waiting import until

from fend.datasets import load
from fend.models.architectures.lenet import PaperLeNet
from fend.models.architectures.unet import ResidualUNet
from service.app import create_app
from service.settings import Settings

torch.set_num_threads(1)

START_TIMEOUT_S = 180
TOKEN = "a-token-for-tests"


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Names that are the same in each process: of sets and bytes, how large they are."""
    return f"{argname}{len(val)}" if isinstance(val, set | frozenset | bytes) else None


@pytest.fixture(scope="session")
def tiny_bundle_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with one bundle `mnist`, trained on drawn digits for a few seconds."""
    models_dir = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    digits = load("rendered-digits:train", None)
    classifier = PaperLeNet()
    optimizer = torch.optim.Adam(classifier.parameters(), lr=1e-3)
    for start in range(0, 4000, 50):
        batch = slice(start, start + 50)
        loss = F.cross_entropy(classifier(digits.pixels(batch)), digits.labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    denoiser = ResidualUNet(width=4)
    with torch.no_grad():  # not the identity, so that the tests can see that it is used
        denoiser.last.weight.normal_(0, 0.02)
    small_bundles.save(
        models_dir / "mnist",
        denoiser=("residual-unet", {"width": 4}, denoiser),
        classifier=("paper-lenet", {}, classifier),
        about={"trained_on": "rendered-digits:train"},
        card="# A tiny model\n\nFor tests.\n",
    )
    return models_dir


@pytest.fixture(scope="session")
def digit_pngs() -> list[tuple[bytes, str]]:
    """Drawn digits that the tiny bundle was not trained on: (PNG, label)."""
    digits = load("rendered-digits:test", None)
    return [
        (png(digits.images[index, 0].numpy()), digits.label_names[int(digits.labels[index])])
        for index in range(64)
    ]


def png(samples: object) -> bytes:
    """A greyscale PNG of an array."""
    file = io.BytesIO()
    Image.fromarray(samples).save(file, format="PNG")  # type: ignore[arg-type]
    return file.getvalue()


@contextmanager
def serving(app: FastAPI) -> Iterator[httpx.Client]:
    """Serve `app` from a thread of this process, so that a test can look inside."""
    sock = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="on"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    port = sock.getsockname()[1]
    try:
        until(lambda: server.started or not thread.is_alive())
        assert server.started, "the app did not start"
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(START_TIMEOUT_S)
        sock.close()


@pytest.fixture(scope="session")
def app_settings(tiny_bundle_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings for an app around the tiny bundle; vary them with `model_copy(update=...)`."""
    return Settings(
        models_dir=tiny_bundle_dir,
        state_dir=tmp_path_factory.mktemp("state"),
        data_dir=tmp_path_factory.mktemp("data"),
        device="cpu",
        admin_token=TOKEN,
        drain_delay_s=0,
    )


@pytest.fixture(scope="session")
def app_client(app_settings, tmp_path_factory) -> Iterator[httpx.Client]:
    """A client of a service in this process; shared, so leave it as it was."""
    own_state = {"state_dir": tmp_path_factory.mktemp("app_client")}  # one service, one state_dir
    with serving(create_app(app_settings.model_copy(update=own_state))) as client:
        yield client


@pytest.fixture(scope="session")
def serve_app() -> Callable[[FastAPI], AbstractContextManager[httpx.Client]]:
    """`with serve_app(app) as client:` serves an app of your own from this process."""
    return serving


@dataclass(frozen=True)
class LiveServer:
    """A service in a process of its own."""

    base_url: str
    token: str
    process: subprocess.Popen[str]
    lines: "queue.Queue[str]"
    """What it wrote to stderr and stdout, line by line."""

    def output(self) -> str:
        """Everything written so far and not taken yet."""
        taken = []
        while not self.lines.empty():
            taken.append(self.lines.get())
        return "".join(taken)


@contextmanager
def running_server(
    models_dir: Path | None,
    state_dir: Path | None,
    *,
    command: Sequence[str | Path] = (sys.executable, "-m", "service"),
    cwd: Path | None = None,
    **settings: object,
) -> Iterator[LiveServer]:
    """`command` on a free port, with the settings that are not None; killed where it still runs."""
    token = secrets.token_hex(8)
    chosen = {
        "models_dir": models_dir,
        "state_dir": state_dir,
        "port": 0,
        "device": "cpu",
        "admin_token": token,
        "drain_delay_s": 0,
        "log_format": "json",
        "engine": "torch",  # loads sooner; the apps of this process have what is installed
        **settings,
    }
    environment = {name: value for name, value in os.environ.items() if name[:5] != "FEND_"}
    given = {name: value for name, value in chosen.items() if value is not None}
    environment |= {f"FEND_{name.upper()}": str(value) for name, value in given.items()}
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=environment | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines: queue.Queue[str] = queue.Queue()
    reader = threading.Thread(target=_copy_lines, args=(process.stdout, lines), daemon=True)
    reader.start()
    try:
        base_url = _announced_url(lines)
        until(lambda: _answers(f"{base_url}/readyz"))
        yield LiveServer(base_url, token, process, lines)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()
        reader.join(5)
        process.stdout.close()


@pytest.fixture
def live_server(tiny_bundle_dir: Path, tmp_path: Path) -> Iterator[LiveServer]:
    """The tiny bundle behind `python -m service`, with a random token."""
    with running_server(tiny_bundle_dir, tmp_path) as server:
        yield server


@pytest.fixture(scope="session")
def run_server() -> Callable[..., AbstractContextManager[LiveServer]]:
    """`with run_server(models_dir, state_dir, **settings) as server:` with settings of your own."""
    return running_server


def _copy_lines(source: io.TextIOBase, lines: "queue.Queue[str]") -> None:
    for line in source:
        lines.put(line)


def _announced_url(lines: "queue.Queue[str]") -> str:
    seen = ""
    while True:
        try:
            seen += lines.get(timeout=START_TIMEOUT_S)
        except queue.Empty:
            raise AssertionError(f"no address announced; it wrote:\n{seen}") from None
        if found := re.search(r"serves at (http://\S+)", seen):
            return found[1]


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False
