"""Fend beside other ways to serve the same bundle: answers a second at 64 clients, p50 at one.

    python -m benchmarks.serving --venvs FOLDER --keep FILE --choose   tries every configuration
    python -m benchmarks.serving --venvs FOLDER --keep FILE            one round of all; repeat it
    python -m benchmarks.serving --keep FILE --table                   medians, ratios and targets

A round starts each service in turn, warms it, and loads it from a process of its own. Nothing else
should run. FOLDER is where serving_peers/install.sh made the venvs.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks.common import mnist_pngs, parser_of
from benchmarks.load import ask_in_turn, in_own_process
from benchmarks.running import running
from benchmarks.serving_peers.catalogue import PEERS, Peer, Variant
from benchmarks.serving_table import print_table

CLIENTS = 64


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--venvs", type=Path, default=Path(".fend/serving-peers"))
    parser.add_argument("--keep", type=Path, required=True, help="results, one JSON line each")
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--warm-up-seconds", type=float, default=2.0)
    parser.add_argument("--choose", action="store_true", help="try every configuration once")
    parser.add_argument("--table", action="store_true", help="only print what is kept")
    parser.add_argument("--only", nargs="*", help="names of services")
    options = parser.parse_args()
    if not options.table:
        for peer in PEERS:
            if options.only is None or peer.name in options.only:
                _measure(peer, options)
    print_table(_read(options.keep))


def _measure(peer: Peer, options: argparse.Namespace) -> None:
    installed = peer.version(options.venvs)
    if installed is None:
        _keep(options.keep, {"kind": "missing", "peer": peer.name})
        return
    if options.choose:
        variants, kind = peer.variants if len(peer.variants) > 1 else [], "choice"
    else:
        variants, kind = [_best(peer, _read(options.keep))], "round"
    for variant in variants:
        line = {"kind": kind, "peer": peer.name, "version": installed, "variant": dict(variant)}
        _keep(options.keep, line | _round(peer, variant, options))


def _round(peer: Peer, variant: Variant, options: argparse.Namespace) -> dict[str, Any]:
    images, labels = mnist_pngs(options.data_dir)
    try:
        with running(peer, variant, options.venvs, images, labels[: peer.checked]) as service:
            question = service.question
            in_own_process(ask_in_turn, question, CLIENTS, options.warm_up_seconds)
            many = in_own_process(ask_in_turn, question, CLIENTS, options.seconds)
            one = in_own_process(ask_in_turn, question, 1, options.seconds / 2)
            resident = service.resident_bytes()
    except (RuntimeError, ConnectionError) as error:
        return {"error": str(error)}
    return {
        "per_s": many.per_s,
        "p99_s": many.percentile_s(99),
        "p50_alone_s": one.percentile_s(50),
        "failed": many.failed + one.failed,
        "ready_s": service.ready_s,
        "resident_bytes": resident,
    }


def _best(peer: Peer, kept: list[dict[str, Any]]) -> Variant:
    """The configuration that answered most; the first one where none has been tried."""
    tried: dict[str, list[float]] = {}
    for line in kept:
        if line["kind"] == "choice" and line["peer"] == peer.name and "per_s" in line:
            tried.setdefault(json.dumps(line["variant"]), []).append(line["per_s"])
    if not tried:
        return peer.variants[0]
    best: Variant = json.loads(max(tried, key=lambda name: statistics.median(tried[name])))
    return best


def _read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def _keep(file: Path, line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)
    with file.open("a") as kept:
        kept.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
