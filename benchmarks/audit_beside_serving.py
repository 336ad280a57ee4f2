"""What callers notice of an audit: answers at 16 clients without and with `standard` running.

    python -m benchmarks.audit_beside_serving

One service with the shipped models, as `fend serve` starts it. Rounds alternate: alone, beside a
running audit (which is then cancelled), alone, ... The medians count.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.load import Load, run_load
from benchmarks.places import default_data_dir
from fend.datasets import load
from fend.images import encode_png

TOKEN = "for-this-benchmark"
AUDITS = "/v1/admin/audits"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data-dir", type=Path, default=default_data_dir())
    options = parser.parse_args()
    digits = load("rendered-digits:test", None)
    images = [encode_png(digits.pixels(index)[0]) for index in [slice(i, i + 1) for i in range(64)]]
    alone, beside = [], []
    with service(options.data_dir) as url:
        classify = f"{url}/v1/classify"
        run_load(classify, images, clients=options.clients, duration_s=2)
        for _ in range(options.rounds):
            alone.append(_measure(classify, images, options))
            with running_audit(url):
                beside.append(_measure(classify, images, options))
    kept = _median(beside, "per_s") / _median(alone, "per_s")
    slower = _median(beside, "p99") / _median(alone, "p99")
    print(f"{options.clients} clients, {options.rounds} rounds of {options.seconds:g} s, medians\n")
    print("| | answers a second | p50, ms | p99, ms |\n|---|---|---|---|")
    for name, rounds in (("alone", alone), ("beside `standard`", beside)):
        figures = [
            _median(rounds, "per_s"),
            1e3 * _median(rounds, "p50"),
            1e3 * _median(rounds, "p99"),
        ]
        print(f"| {name} | {figures[0]:.0f} | {figures[1]:.1f} | {figures[2]:.1f} |")
    print(f"\nThroughput kept: {kept:.2f}. p99: {slower:.1f} times.")


def _measure(url: str, images: list[bytes], options: argparse.Namespace) -> Load:
    done = run_load(url, images, clients=options.clients, duration_s=options.seconds)
    assert not done.failed, f"{done.failed} requests were refused"
    return done


def _median(rounds: list[Load], what: str) -> float:
    if what == "per_s":
        return statistics.median(done.per_s for done in rounds)
    return statistics.median(done.percentile_s(float(what[1:])) for done in rounds)


@contextmanager
def service(data_dir: Path) -> Iterator[str]:
    """The service in a process of its own; its address once it is ready."""
    with tempfile.TemporaryDirectory() as state:
        environment = {
            **os.environ, "FEND_ADMIN_TOKEN": TOKEN, "FEND_STATE_DIR": state, "FEND_PORT": "0",
            "FEND_DATA_DIR": str(data_dir), "FEND_DEVICE": "cpu", "FEND_DRAIN_DELAY_S": "0",
        }  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, "-m", "service"], env=environment, text=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert process.stderr is not None
        try:
            for line in process.stderr:
                if "serves at" in line:
                    yield line.split()[3]
                    break
        finally:
            process.terminate()
            process.stderr.read()
            process.wait()


@contextmanager
def running_audit(url: str) -> Iterator[None]:
    """`standard` on the default model, from its first attack on; cancelled at the end."""
    surrogate = {"surrogate": "mnist-paper"}  # or the first minutes would train one
    audit = _ask("POST", url + AUDITS, {"preset": "standard", "model": "mnist", **surrogate})
    place = f"{url}{AUDITS}/{audit['id']}"
    while (state := _ask("GET", place))["state"] == "queued":
        time.sleep(0.2)
    assert state["state"] == "running", state
    time.sleep(5)  # its process imports, and opens the models
    yield
    state = _ask("GET", place)
    assert state["state"] == "running", state
    _ask("DELETE", place)
    time.sleep(1)


def _ask(method: str, url: str, body: dict[str, Any] | None = None) -> Any:
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers, method=method)
    with urllib.request.urlopen(request, timeout=60) as response:
        text = response.read()
    return json.loads(text) if text else None


if __name__ == "__main__":
    main()
