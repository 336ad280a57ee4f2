"""What Fend does when twice as much is asked as it can answer.

    python -m benchmarks.overload [--seconds 60]

First the peak (64 clients in a closed loop) and the p99 of one client; then an open loop at twice
the peak; then one client again, until it is answered as before. Prints a table with the targets.
"""

import statistics
import time
from pathlib import Path

from benchmarks.common import mnist_pngs, parser_of, target_table
from benchmarks.load import ask_in_turn, in_own_process, percentile
from benchmarks.open_load import Asked, ask_at_a_rate
from benchmarks.running import Running, running
from benchmarks.serving_peers.catalogue import FEND

Row = tuple[str, str, bool]


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--times", type=float, default=2.0, help="load, in multiples of the peak")
    parser.add_argument("--queue-size", type=int, help="FEND_QUEUE_SIZE, where not the default")
    options = parser.parse_args()
    images, labels = mnist_pngs(options.data_dir)
    setting = {"FEND_QUEUE_SIZE": str(options.queue_size)} if options.queue_size else {}
    with running(FEND, setting, Path(), images, labels[:16]) as service:
        rows = _overload(service, options.seconds, options.times)
    print(target_table(rows))


def _overload(service: Running, seconds: float, times: float) -> list[Row]:
    question = service.question
    in_own_process(ask_in_turn, question, 64, 3)
    peak = statistics.median(in_own_process(ask_in_turn, question, 64, 5).per_s for _ in range(3))
    unloaded = in_own_process(ask_in_turn, question, 1, 5)
    print(f"peak {peak:.0f} answers/s; one client: p50 {1e3 * unloaded.percentile_s(50):.2f} ms, "
          f"p99 {1e3 * unloaded.percentile_s(99):.2f} ms\n")  # fmt: skip
    in_own_process(ask_at_a_rate, question, times * peak, 5)  # queues and pools have their size now
    before = service.resident_bytes()[0]
    asked = in_own_process(ask_at_a_rate, question, times * peak, seconds)
    recovered_s = _recovery(service, 3 * unloaded.percentile_s(50))
    after = service.resident_bytes()[0]
    return _rows(asked, seconds, peak, unloaded.percentile_s(99), recovered_s, after - before)


def _recovery(service: Running, calm_s: float) -> float:
    """Until ten answers in a row came in `calm_s` in the median."""
    started_s = time.monotonic()
    while ask_in_turn(service.question, 1, 10 * calm_s).percentile_s(50) > calm_s:
        if time.monotonic() - started_s > 60:
            break
    return time.monotonic() - started_s


def _rows(
    asked: list[Asked], seconds: float, peak: float, alone_s: float, recovered_s: float, grown: int
) -> list[Row]:
    accepted = sorted(one.latency_s for one in asked if one.status == 200)
    refused = [one for one in asked if one.status == 429]
    refusals = sorted(one.latency_s for one in refused)
    told = sum(one.retry_after_s is not None for one in refused)
    others = len(asked) - len(accepted) - len(refused)
    goodput = len(accepted) / seconds / peak
    p99 = percentile(accepted, 99) / alone_s
    slowest_ms = 1e3 * percentile(refusals, 99)
    return [
        (f"{len(asked) / seconds:.0f} asked a second: goodput at least 85 % of the peak",
         f"{100 * goodput:.0f} %", goodput >= 0.85),
        ("accepted: p99 under 10 x the p99 of one client",
         f"{p99:.1f} x ({1e3 * percentile(accepted, 99):.0f} ms)", p99 < 10),
        ("refusals: p99 under 50 ms", f"{slowest_ms:.1f} ms of {len(refused)}", slowest_ms < 50),
        ("refusals with Retry-After", f"{told} of {len(refused)}", told == len(refused)),
        ("nothing but answers and refusals", f"{others} others", others == 0),
        ("memory flat", f"{grown / 2**20:+.1f} MiB", grown < 16 * 2**20),
        ("recovery within 2 s", f"{recovered_s:.2f} s", recovered_s < 2),
    ]  # fmt: skip


if __name__ == "__main__":
    main()
