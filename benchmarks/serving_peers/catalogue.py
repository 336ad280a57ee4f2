"""How each service is started, asked, and in which configurations it is tried."""

import base64
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import distributions, version
from pathlib import Path

PORT = 8731
Variant = Mapping[str, str]
"""Environment variables of one configuration."""


def _raw(png: bytes) -> bytes:
    return png


def _list_of_one(png: bytes) -> bytes:
    return json.dumps({"images": [base64.b64encode(png).decode()]}).encode()


def _open_inference(png: bytes) -> bytes:
    text = base64.b64encode(png).decode()
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [text]}
    return json.dumps({"inputs": [{**tensor, "parameters": {"content_type": "str"}}]}).encode()


@dataclass(frozen=True)
class Peer:
    """A service in a process of its own, on `PORT`."""

    name: str
    arguments: Sequence[str]
    distribution: str = "fastapi"
    """What its version is the version of."""
    venv: str | None = None
    """The name of its venv; None: the project's own."""
    path: str = "/classify"
    body: Callable[[bytes], bytes] = _raw
    content_type: str = "image/png"
    checked: int = 16
    """How many of its answers are compared with ours before it is measured."""
    variants: Sequence[Variant] = field(default_factory=lambda: [{}])

    def command(self, venvs: Path) -> list[str]:
        """What starts it."""
        return [str(self._python(venvs)), *self.arguments]

    def version(self, venvs: Path) -> str | None:
        """What is installed; None: nothing."""
        if self.venv is None:
            return version(self.distribution)
        packages = [str(path) for path in (venvs / self.venv).glob("lib/python*/site-packages")]
        found = distributions(name=self.distribution, path=packages)
        return next((installed.version for installed in found), None)

    def _python(self, venvs: Path) -> Path:
        return Path(sys.executable) if self.venv is None else venvs / self.venv / "bin" / "python"


def _module(name: str, *arguments: str) -> list[str]:
    return ["-m", f"benchmarks.serving_peers.{name}", *arguments]


def _lit(**given: object) -> Variant:
    return {"BENCH_LIT": json.dumps(given)}


def _mlserver(**given: object) -> Variant:
    return {"BENCH_MLSERVER": json.dumps(given)}


FEND = Peer("Fend", ["-m", "service"], "fend", path="/v1/classify")
NULL = Peer("Fend, the model a constant", _module("null"), "fend", path="/v1/classify", checked=0)
_NAIVE = ["-m", "uvicorn", "benchmarks.serving_peers.naive:app", "--port", str(PORT),
          "--no-access-log"]  # fmt: skip
NAIVE_ASYNC = Peer("FastAPI, `async def`", _NAIVE, path="/async")
NAIVE_DEF = Peer("FastAPI, `def`", _NAIVE, path="/def")
LITSERVE = Peer(
    "LitServe", _module("lit", str(PORT)), "litserve", "litserve",
    variants=[
        _lit(),
        _lit(batch=32),
        _lit(batch=32, timeout_s=0.005),
        _lit(workers=2),
        _lit(workers=2, batch=16),
        _lit(batch=32, fast_queue=True),
        _lit(workers=2, batch=16, fast_queue=True),
    ],
)  # fmt: skip
BENTOML = Peer(
    "BentoML", ["-m", "bentoml", "serve", "benchmarks.serving_peers.bento:Classify",
                "--port", str(PORT)],
    "bentoml", "bentoml", body=_list_of_one, content_type="application/json",
    variants=[{"BENCH_WORKERS": "1"}, {"BENCH_WORKERS": "2"}],
)  # fmt: skip
RAY = Peer(
    "Ray Serve", _module("rayserve", str(PORT)), "ray", "ray",
    variants=[{"BENCH_WORKERS": "1"}, {"BENCH_WORKERS": "2"}],
)  # fmt: skip
MLSERVER = Peer(
    "MLServer", _module("mlserver_runtime", str(PORT)), "mlserver", "mlserver",
    path="/v2/models/mnist/infer", body=_open_inference, content_type="application/json",
    variants=[_mlserver(batch=0, time_s=0), _mlserver(batch=32, time_s=0.001)],
)  # fmt: skip

PEERS = (FEND, NULL, NAIVE_ASYNC, NAIVE_DEF, LITSERVE, BENTOML, RAY, MLSERVER)
