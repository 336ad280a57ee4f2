"""What `benchmarks.serving` has kept, as a table of medians, with the ratios that we aim at."""

import json
import statistics
from typing import Any

from benchmarks.common import target_table

LEADS = {"LitServe": 1.0, "BentoML": 1.0, "MLServer": 1.0, "Ray Serve": 1.0}
"""At 64 clients, our answers a second over theirs."""
NAIVE = ("FastAPI, `async def`", "FastAPI, `def`")
LEAD_OVER_NAIVE, SHARE_OF_NULL, SLOWER_ALONE = 2.0, 0.6, 1.1
READY_S, RESIDENT_BYTES = 5.0, 600e6

Lines = list[dict[str, Any]]


def print_table(kept: Lines) -> None:
    """Markdown: a row for each service, then the targets."""
    rounds: dict[str, Lines] = {}
    for line in kept:
        if line["kind"] == "round" or line["kind"] == "missing":
            rounds.setdefault(line["peer"], []).append(line)
    if "Fend" not in rounds:
        return
    ours = _median(rounds["Fend"], "per_s")
    print("\n| service | 64 clients: answers/s | (all rounds) | p99, ms | Fend is | "
          "1 client: p50, ms | ready, s | memory, MB |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|")
    for peer, lines in rounds.items():
        good = [line for line in lines if "per_s" in line]
        if not good:
            reason = "not installed" if lines[0]["kind"] == "missing" else lines[0]["error"]
            print(f"| {peer} | {reason} | | | | | | |")
            continue
        per_s = _median(good, "per_s")
        everything = " ".join(f"{line['per_s']:.0f}" for line in good)
        resident = " + ".join(f"{size / 1e6:.0f}" for size in _large(good[-1]["resident_bytes"]))
        print(
            f"| {_title(good[-1])} | {per_s:.0f} | {everything} | "
            f"{1e3 * _median(good, 'p99_s'):.0f} | {ours / per_s:.2f} x | "
            f"{1e3 * _median(good, 'p50_alone_s'):.2f} | {_median(good, 'ready_s'):.1f} | "
            f"{resident} |"
        )
    print(f"\n{target_table(_targets(rounds))}")


def _targets(rounds: dict[str, Lines]) -> list[tuple[str, str, bool]]:
    def median(peer: str, what: str) -> float:
        good = [line for line in rounds.get(peer, []) if what in line]
        return _median(good, what) if good else float("nan")

    def over(peer: str) -> float:
        return median("Fend", "per_s") / median(peer, "per_s")

    targets = [
        (f"at least {lead:g} x {peer}", f"{over(peer):.2f} x", over(peer) >= lead)
        for peer, lead in LEADS.items()
    ]
    naive = min(over(peer) for peer in NAIVE)
    null = over("Fend, the model a constant")
    fastest_alone = min(median(peer, "p50_alone_s") for peer in NAIVE)
    slower = median("Fend", "p50_alone_s") / fastest_alone
    resident = max(rounds["Fend"][-1].get("resident_bytes", [0]))
    ready_s = median("Fend", "ready_s")
    return [
        *targets,
        (f"at least {LEAD_OVER_NAIVE} x the better naive FastAPI", f"{naive:.2f} x",
         naive >= LEAD_OVER_NAIVE),
        (f"at least {SHARE_OF_NULL} of the null service", f"{null:.2f}", null >= SHARE_OF_NULL),
        ("1 client: p50 at most 1.1 x the naive service's", f"{slower:.2f} x",
         slower <= SLOWER_ALONE),
        (f"ready in under {READY_S:g} s", f"{ready_s:.1f} s", ready_s < READY_S),
        (f"under {RESIDENT_BYTES / 1e6:.0f} MB a process", f"{resident / 1e6:.0f} MB",
         resident < RESIDENT_BYTES),
    ]  # fmt: skip


def _title(line: dict[str, Any]) -> str:
    chosen = " ".join(str(value) for value in line["variant"].values())
    chosen = "; ".join(f"{k} {v}" for k, v in json.loads(chosen).items()) if "{" in chosen else (
        f"workers {chosen}" if chosen else "")  # fmt: skip
    name = f"{line['peer']} {line['version']}" if "Fend" not in line["peer"] else line["peer"]
    return f"{name} ({chosen})" if chosen else name


def _large(sizes: list[int]) -> list[int]:
    return [size for size in sizes if size > 100e6]


def _median(lines: Lines, what: str) -> float:
    return statistics.median(line[what] for line in lines if what in line)
