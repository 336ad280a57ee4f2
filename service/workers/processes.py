"""process_* metrics of the whole group: what prometheus_client says of one process, summed."""

import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from prometheus_client import ProcessCollector
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from service.workers.group import Group

_NOT_SUMMED: Mapping[str, Callable[[float, float], float]] = {
    "process_max_fds": min,
    "process_start_time_seconds": min,
}
"""The limit of one, and when the service started."""


class GroupProcesses(Collector):
    """The supervisor and its workers."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._supervisor = os.getppid()

    def collect(self) -> Iterator[Metric]:
        """What is known of each process, put together."""
        found: dict[str, Metric] = {}
        for pid in [self._supervisor, *self._workers()]:
            for metric in _metrics_of(pid):
                if metric.name not in found:
                    found[metric.name] = metric
                    continue
                before, [now] = found[metric.name].samples[0], metric.samples
                name = before.name
                put_together: Callable[[float, float], float] = _NOT_SUMMED.get(name, operator.add)
                value = put_together(before.value, now.value)
                found[metric.name].samples = [before._replace(value=value)]
        if cpu := found.get("process_cpu_seconds"):
            [live] = cpu.samples
            cpu.samples = [live._replace(value=live.value + _reaped_s(self._supervisor))]
        yield from found.values()

    def _workers(self) -> list[int]:
        """Those that live: an id may belong to somebody else after a death."""
        pids = []
        for index in range(self._group.size):
            try:
                pid = int(self._group.pid_file_of(index).read_text())
                parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError):
                continue
            if parent == self._supervisor:
                pids.append(pid)
        return pids


def _metrics_of(pid: int) -> Iterable[Metric]:
    return ProcessCollector(pid=lambda: pid, registry=None).collect()


def _reaped_s(pid: int) -> float:
    """Processor time of the children of `pid` that have ended, so that the sum never falls."""
    parts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(parts[13]) + int(parts[14])) / os.sysconf("SC_CLK_TCK")
