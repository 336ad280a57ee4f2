"""Clients that ask a service as fast as it answers (closed loop), each over one kept connection.

Bare sockets and no HTTP library, so that on two cores the asking costs little beside the answering.
`in_own_process` runs them where they share no interpreter with anything that is measured.
"""

import asyncio
import gc
import pickle
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast
from urllib.parse import urlsplit

import uvloop

T = TypeVar("T")
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.I)
RETRY_AFTER = re.compile(rb"\r\nretry-after: *(\d+)", re.I)
CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.I)


@dataclass(frozen=True)
class Question:
    """What is asked: bodies in turn, POSTed to one address."""

    url: str
    bodies: Sequence[bytes]
    content_type: str = "image/png"

    def requests(self) -> list[bytes]:
        """Each as it goes over the wire."""
        target = urlsplit(self.url)
        return [
            f"POST {target.path}?{target.query} HTTP/1.1\r\nHost: {target.netloc}\r\n"
            f"Content-Type: {self.content_type}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
            for body in self.bodies
        ]


@dataclass(frozen=True)
class Load:
    """What a number of clients got in some seconds."""

    clients: int
    duration_s: float
    latencies_s: tuple[float, ...]
    """Latencies of the answers with status 200, sorted."""
    failed: int
    """Other answers."""

    @property
    def per_s(self) -> float:
        """Good answers a second."""
        return len(self.latencies_s) / self.duration_s

    def percentile_s(self, percent: float) -> float:
        """The latency that so many percent of the good answers keep."""
        return percentile(self.latencies_s, percent)


def percentile(ordered: Sequence[float], percent: float) -> float:
    """That of sorted numbers; infinite where there is none."""
    if not ordered:
        return float("inf")
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


class Connection(asyncio.Protocol):
    """One kept connection; `on_answer(status, head, body)` is called for each answer."""

    def __init__(self, on_answer: Callable[[int, bytes, bytes], None]) -> None:
        self.on_answer = on_answer
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    @property
    def lost(self) -> bool:
        """Whether the server has left, known a moment before `connection_lost` is called."""
        return self._transport is None or self._transport.is_closing()

    def connection_lost(self, exc: Exception | None) -> None:
        self.on_answer(0, b"", str(exc).encode())

    def ask(self, request: bytes) -> None:
        """Send; only when the answer to the one before has come."""
        assert self._transport is not None
        self._transport.write(request)

    def close(self) -> None:
        """Close the connection without an answer."""
        self.on_answer = lambda *_: None
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        head, body = self._received[: end + 2], self._received[end + 4 :]
        length = LENGTH.search(head)
        if length is not None:
            whole = len(body) >= int(length[1])
        else:
            whole = CHUNKED.search(head) is None or body.endswith(b"0\r\n\r\n")
        if whole:
            self._received = b""
            self.on_answer(int(head[9:12]), head, body)


async def connect(url: str, on_answer: Callable[[int, bytes, bytes], None]) -> Connection:
    """A new connection to the server of `url`."""
    target = urlsplit(url)
    _, connection = await asyncio.get_running_loop().create_connection(
        lambda: Connection(on_answer), target.hostname, target.port
    )
    return connection


def ask_in_turn(question: Question, clients: int, duration_s: float) -> Load:
    """A closed loop of `clients`, each of which asks again when it has its answer."""
    return uvloop.run(_ask_in_turn(question, clients, duration_s))


async def _ask_in_turn(question: Question, clients: int, duration_s: float) -> Load:
    requests = question.requests()
    latencies_s: list[float] = []
    failed = 0
    clock = time.perf_counter
    connections: list[Connection] = []

    async def client(number: int, done: asyncio.Future[None]) -> None:
        turn, asked_s = number, 0.0

        def ask() -> None:
            nonlocal turn, asked_s
            asked_s = clock()
            connection.ask(requests[turn % len(requests)])
            turn += clients

        def answered(status: int, _head: bytes, body: bytes) -> None:
            nonlocal failed
            now_s = clock()
            if status == 200:
                latencies_s.append(now_s - asked_s)
            elif status == 0:
                done.set_exception(ConnectionError(f"the server hung up: {body.decode()}"))
                return
            else:
                failed += 1
            if now_s - started_s < duration_s:
                ask()
            elif not done.done():
                done.set_result(None)

        connection = await connect(question.url, answered)
        connections.append(connection)
        ask()

    gc.disable()  # a pause here would look like one of the server
    loop = asyncio.get_running_loop()
    ends: list[asyncio.Future[None]] = [loop.create_future() for _ in range(clients)]
    started_s = clock()
    for number in range(clients):
        await client(number, ends[number])
    await asyncio.gather(*ends)
    elapsed_s = clock() - started_s
    for connection in connections:
        connection.close()
    gc.enable()
    return Load(clients, elapsed_s, tuple(sorted(latencies_s)), failed)


def in_own_process(ask: Callable[..., T], *given: object) -> T:
    """`ask(*given)` in a fresh process, which imports nothing but the module of `ask`."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load"],
        input=pickle.dumps((ask, given)), stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    found: T = pickle.loads(done.stdout)
    return found


if __name__ == "__main__":
    asked, arguments = pickle.load(sys.stdin.buffer)
    sys.stdout.buffer.write(pickle.dumps(asked(*arguments)))
