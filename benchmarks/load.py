"""A closed loop of clients that ask a service, each over one connection, as fast as it answers.

Raw sockets and no HTTP library, so that on two cores the asking costs little beside the answering.
"""

import asyncio
import re
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

LENGTH = re.compile(rb"content-length: (\d+)", re.I)


@dataclass(frozen=True)
class Load:
    """What a number of clients got in some seconds."""

    clients: int
    duration_s: float
    latencies_s: tuple[float, ...]
    """Of the answers with status 200, sorted."""
    failed: int
    """Other answers."""

    @property
    def per_s(self) -> float:
        """Good answers a second."""
        return len(self.latencies_s) / self.duration_s

    def percentile_s(self, percent: float) -> float:
        """The latency that so many percent of the good answers keep."""
        place = min(len(self.latencies_s) - 1, int(len(self.latencies_s) * percent / 100))
        return self.latencies_s[place]


def run_load(url: str, images: list[bytes], *, clients: int, duration_s: float) -> Load:
    """POST `images` (PNG) to `url` in turn for `duration_s`; ends when all answers are in."""
    return asyncio.run(_load(url, images, clients, duration_s))


async def _load(url: str, images: list[bytes], clients: int, duration_s: float) -> Load:
    target = urlsplit(url)
    requests = [
        f"POST {target.path} HTTP/1.1\r\nHost: {target.netloc}\r\nContent-Type: image/png\r\n"
        f"Content-Length: {len(image)}\r\n\r\n".encode()
        + image
        for image in images
    ]
    latencies_s: list[float] = []
    failed = 0
    started_s = time.perf_counter()

    async def client(number: int) -> None:
        nonlocal failed
        reader, writer = await asyncio.open_connection(target.hostname, target.port)
        turn = number
        while time.perf_counter() - started_s < duration_s:
            asked_s = time.perf_counter()
            writer.write(requests[turn % len(requests)])
            head = await reader.readuntil(b"\r\n\r\n")
            length = LENGTH.search(head)
            assert length is not None, head
            await reader.readexactly(int(length[1]))
            if b" 200 " in head[:16]:
                latencies_s.append(time.perf_counter() - asked_s)
            else:
                failed += 1
            turn += clients
        writer.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    elapsed_s = time.perf_counter() - started_s
    return Load(clients, elapsed_s, tuple(sorted(latencies_s)), failed)
