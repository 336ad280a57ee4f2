"""What callers notice of an audit: answers at 16 clients without and with `standard` running.

    python -m benchmarks.audit_beside_serving

One service with the shipped models, as `fend serve` starts it. Rounds alternate: alone, beside a
running audit (which is then cancelled), alone, ... The medians count.
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from benchmarks.common import markdown, mnist_pngs, parser_of
from benchmarks.load import Load, Question, ask_in_turn, in_own_process
from benchmarks.running import TOKEN, running
from benchmarks.serving_peers.catalogue import FEND, PORT

AUDITS = "/v1/admin/audits"


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    images, labels = mnist_pngs(options.data_dir)
    setting = {"FEND_DATA_DIR": str(options.data_dir)}
    alone, beside = [], []
    with running(FEND, setting, Path(), images, labels[:16]) as service:
        in_own_process(ask_in_turn, service.question, options.clients, 2)
        for _ in range(options.rounds):
            alone.append(_measure(service.question, options))
            with running_audit():
                beside.append(_measure(service.question, options))
    rows = [("", "answers a second", "p50, ms", "p99, ms")]
    figures = [_medians(rounds) for rounds in (alone, beside)]
    for name, (per_s, p50_s, p99_s) in zip(("alone", "beside `standard`"), figures, strict=True):
        rows.append((name, f"{per_s:.0f}", f"{1e3 * p50_s:.1f}", f"{1e3 * p99_s:.1f}"))
    (all_per_s, _, quick_s), (kept_per_s, _, slow_s) = figures
    print(f"{options.clients} clients, {options.rounds} rounds of {options.seconds:g} s, medians\n")
    print(markdown(rows))
    print(f"\nThroughput kept: {kept_per_s / all_per_s:.2f}. p99: {slow_s / quick_s:.1f} times.")


def _measure(question: Question, options: argparse.Namespace) -> Load:
    done = in_own_process(ask_in_turn, question, options.clients, options.seconds)
    assert not done.failed, f"{done.failed} requests were refused"
    return done


def _medians(rounds: list[Load]) -> list[float]:
    """Answers a second, and the latencies p50 and p99 in seconds."""
    figures = [(done.per_s, done.percentile_s(50), done.percentile_s(99)) for done in rounds]
    return [statistics.median(values) for values in zip(*figures, strict=True)]


@contextmanager
def running_audit() -> Iterator[None]:
    """`standard` on the default model, from its first attack on; cancelled at the end."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=f"http://127.0.0.1:{PORT}", headers=headers, timeout=60) as http:
        # The surrogate is named, or the first minutes would train one.
        spec = {"preset": "standard", "model": "mnist", "surrogate": "mnist-paper"}
        place = http.post(AUDITS, json=spec).raise_for_status().headers["Location"]
        while http.get(place).json()["state"] == "queued":
            time.sleep(0.2)
        time.sleep(5)  # its process imports, and opens the models
        yield
        state = http.get(place).json()
        assert state["state"] == "running", state
        http.delete(place)
        time.sleep(1)


if __name__ == "__main__":
    main()
