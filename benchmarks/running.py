"""A service in processes of its own, for as long as a benchmark needs it."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load import Question
from benchmarks.serving_peers.catalogue import PORT, Peer, Variant

START_TIMEOUT_S = 120
TOKEN = "for-this-benchmark"
LABEL = re.compile(rb'label\\?": ?\\?"(\w+)')


@dataclass(frozen=True)
class Running:
    """A service that answers."""

    question: Question
    pid: int
    ready_s: float
    """Seconds from its start to its first answer."""

    def resident_bytes(self) -> list[int]:
        """The memory of each of its processes, the largest first."""
        return sorted((_resident(pid) for pid in _family(self.pid)), reverse=True)


@contextmanager
def running(peer: Peer, variant: Variant, venvs: Path, images: Sequence[bytes],
            labels: Sequence[str]) -> Iterator[Running]:  # fmt: skip
    """`peer`, once it gives each of `images` (files) its label; killed with all its processes.

    Raises:
        RuntimeError: it does not start, or answers otherwise.
    """
    bodies = [peer.body(image) for image in images]
    question = Question(f"http://127.0.0.1:{PORT}{peer.path}", bodies, peer.content_type)
    with tempfile.TemporaryDirectory() as state, tempfile.TemporaryFile() as output:
        environment = {
            "PYTHONPATH": str(Path(__file__).parent.parent), **os.environ, **variant,
            "OMP_NUM_THREADS": "1", "FEND_PORT": str(PORT),
            "FEND_ADMIN_TOKEN": TOKEN, "FEND_STATE_DIR": state, "FEND_DEVICE": "cpu",
            "FEND_DRAIN_DELAY_S": "0", "BENTOML_DO_NOT_TRACK": "True",
            "RAY_USAGE_STATS_ENABLED": "0",
        }  # fmt: skip
        started_s = time.perf_counter()
        process = subprocess.Popen(
            peer.command(venvs), env=environment, stdout=output, stderr=output,
            process_group=0,
        )  # fmt: skip
        try:
            _await_answer(question, process)
            ready_s = time.perf_counter() - started_s
            for body, label in zip(bodies, labels, strict=False):
                answer = LABEL.search(_ask(question, body))
                if answer is None or answer[1].decode() != label:
                    raise RuntimeError(f"{peer.name} answers {answer}, not {label}")
            yield Running(question, process.pid, ready_s)
        except TimeoutError:
            output.seek(0)
            sys.stderr.write(output.read()[-3000:].decode(errors="replace"))
            raise RuntimeError(f"{peer.name} does not start") from None
        finally:
            _end(process)


def _await_answer(question: Question, process: "subprocess.Popen[bytes]") -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s and process.poll() is None:
        try:
            _ask(question, question.bodies[0])
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.02)
    raise TimeoutError


def _ask(question: Question, body: bytes) -> bytes:
    headers = {"Content-Type": question.content_type}
    request = urllib.request.Request(question.url, body, headers)
    with urllib.request.urlopen(request, timeout=30) as response:
        answer: bytes = response.read()
        return answer


def _end(process: "subprocess.Popen[bytes]") -> None:
    family = _family(process.pid)
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
    for pid in family:  # some leave children behind
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


def _family(pid: int) -> list[int]:
    """A process and all its descendants."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it ended while we looked
            continue
    family = [pid]
    for member in family:
        family += [child for child, parent in parents.items() if parent == member]
    return family


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
