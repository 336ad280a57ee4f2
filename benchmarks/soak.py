"""Hours of mixed load on one service: no wrong answer, and memory that stays flat.

    python -m benchmarks.soak [--minutes 30]

Sixteen clients ask at random: good images, broken and oversized ones, batches, and some hang up.
Every answer is compared with what `models/mnist` says. Prints memory each minute; ends with
status 1 where it grew or an answer was wrong.
"""

import asyncio
import json
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.common import mnist_pngs, parser_of
from benchmarks.running import Running, running
from benchmarks.serving_peers.catalogue import FEND, PORT

CLIENTS = 16
MAY_GROW_BYTES = 24 * 2**20
"""From the end of the warm-up to the end: less than a leak of 100 bytes a request would show."""
PAUSE_S = 0.02
BOUNDARY = "soak"
OVERSIZED = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + (30_000).to_bytes(4) * 2 + bytes(2_000_000)


@dataclass
class Soak:
    """The images, what they are, and what came of asking."""

    images: list[bytes]
    labels: list[str]
    dice: random.Random = field(default_factory=lambda: random.Random(0))
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    async def client(self, until_s: float) -> None:
        """Ask one thing after another until then."""
        kinds = (self.good, self.broken, self.oversized, self.batch, self.leaving)
        while time.monotonic() < until_s:
            [ask] = self.dice.choices(kinds, (60, 10, 2, 8, 20))
            self.counts[ask.__name__] += 1
            await ask()
            await asyncio.sleep(self.dice.random() * PAUSE_S)

    async def good(self) -> None:
        index = self._index()
        self._expect(await _post("/v1/classify", "image/png", self.images[index]), index)

    async def broken(self) -> None:
        image = bytearray(self.images[self._index()])
        image[self.dice.randrange(8, len(image))] ^= 0xFF
        status, _ = await _post("/v1/classify", "image/png", bytes(image[:-8]))
        self._check(status == 422, f"a broken image: {status}")

    async def oversized(self) -> None:
        status, _ = await _post("/v1/classify", "image/png", OVERSIZED)
        self._check(status in (413, 422), f"an oversized image: {status}")

    async def batch(self) -> None:
        indices = [self._index() for _ in range(self.dice.randint(1, 16))]
        parts = b"".join(
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n'
            "Content-Type: image/png\r\n\r\n".encode()
            + self.images[index]
            + b"\r\n"
            for index in indices
        )
        body = parts + f"--{BOUNDARY}--\r\n".encode()
        form = f"multipart/form-data; boundary={BOUNDARY}"
        status, answer = await _post("/v1/classify/batch", form, body)
        self._check(status == 200, f"a batch: {status}")
        if status == 200:
            outcomes = json.loads(answer)["outcomes"]
            labels = [outcome.get("result", {}).get("label") for outcome in outcomes]
            self._check(labels == [self.labels[index] for index in indices], f"a batch: {labels}")

    async def leaving(self) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", PORT)
        writer.write(_request("/v1/classify", "image/png", self.images[self._index()]))
        await asyncio.sleep(self.dice.random() * PAUSE_S)
        writer.transport.abort()

    def _expect(self, answer: tuple[int, bytes], index: int) -> None:
        status, body = answer
        label = json.loads(body)["label"] if status == 200 else f"status {status}"
        self._check(label == self.labels[index], f"image {index}: {label}")

    def _check(self, holds: bool, what: str) -> None:
        if not holds:
            self.wrong.append(what)

    def _index(self) -> int:
        return self.dice.randrange(len(self.images))


def _request(path: str, content_type: str, body: bytes) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


async def _post(path: str, content_type: str, body: bytes) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
    try:
        writer.write(_request(path, content_type, body))
        received = await reader.read()
    finally:
        writer.close()
    head, _, answer = received.partition(b"\r\n\r\n")
    return int(head[9:12]), answer


async def _soak(soak: Soak, service: Running, minutes: float) -> list[int]:
    """The memory at each minute's end, the first one's included."""
    memory = []
    started_s = time.monotonic()
    until_s = started_s + 60 * minutes
    clients = [asyncio.create_task(soak.client(until_s)) for _ in range(CLIENTS)]
    while (now_s := time.monotonic()) < until_s:
        await asyncio.sleep(min(60, until_s - now_s))
        memory.append(service.resident_bytes()[0])
        print(
            f"{(time.monotonic() - started_s) / 60:5.1f} min  {memory[-1] / 2**20:6.1f} MiB  "
            f"{sum(soak.counts.values())} requests, {len(soak.wrong)} wrong",
            flush=True,
        )
    await asyncio.gather(*clients)
    return memory


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    options = parser.parse_args()
    images, labels = mnist_pngs(options.data_dir)
    soak = Soak(images, labels)
    with running(FEND, {}, Path(), images, labels[:16]) as service:
        memory = asyncio.run(_soak(soak, service, options.minutes))
    warm = memory[min(len(memory) - 1, max(0, len(memory) // 5))]  # pools and caches are full now
    grown = memory[-1] - warm
    print(f"\n{dict(soak.counts)}\nmemory grew by {grown / 2**20:.1f} MiB; wrong: {soak.wrong[:5]}")
    sys.exit(1 if soak.wrong or grown > MAY_GROW_BYTES else 0)


if __name__ == "__main__":
    main()
