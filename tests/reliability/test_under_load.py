"""Promises of the process while many ask at once: on a real server, over real sockets."""

import asyncio
import json
import re
import signal
import socket
import struct
import zlib
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

Digits = list[tuple[bytes, str]]
Address = tuple[str, int]
Crowd = Callable[[Any, Digits, int], Coroutine[Any, Any, "list[Answer]"]]


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: Any


def request_of(data: bytes) -> bytes:
    """POST /v1/classify of a PNG, as bytes."""
    head = (
        "POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
        f"Content-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + data


async def ask(
    address: Address, request: bytes, on_connected: Callable[[], None] = lambda: None
) -> Answer:
    """The answer to `request`; raises OSError where there is none."""
    reader, writer = await asyncio.open_connection(*address)
    on_connected()
    try:
        writer.write(request)
        received = await reader.read()
    finally:
        writer.close()
    if not received:
        raise ConnectionResetError("closed without an answer")
    head, _, body = received.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return Answer(int(status.split()[1]), headers, json.loads(body))


async def ask_and_leave(address: Address, request: bytes, turns: int) -> None:
    """Send `request` whole and hang up after `turns` turns of the loop, answer or not."""
    _, writer = await asyncio.open_connection(*address)
    writer.write(request)
    for _ in range(turns):
        await asyncio.sleep(0)
    writer.transport.abort()


def address_of(server: Any) -> tuple[str, int]:
    host, port = server.base_url.removeprefix("http://").split(":")
    return host, int(port)


def test_a_thousand_who_leave_cost_the_thousand_who_stay_nothing(
    run_server, tiny_bundle_dir, tmp_path, digit_pngs
):
    solo = tmp_path / "solo"
    solo.mkdir()
    with run_server(tiny_bundle_dir, solo) as server:
        alone = asyncio.run(_one_after_the_other(server, digit_pngs))
    with run_server(tiny_bundle_dir, tmp_path, queue_size=4000) as server:
        answers = asyncio.run(_stay_and_leave(server, digit_pngs, 1_000))
        metrics = httpx.get(f"{server.base_url}/metrics").text
    for number, answer in enumerate(answers):
        expected = alone[number % len(alone)]
        assert answer.status == 200, answer
        assert answer.body["label"] == expected.body["label"]
        assert answer.body["confidence"] == pytest.approx(expected.body["confidence"], abs=1e-5)
    assert re.search(r'fend_requests_rejected_total\{reason="client_gone"\} [1-9]', metrics), (
        "nobody left before the answer: the test shows nothing"
    )


async def _one_after_the_other(server: Any, digits: Digits) -> list[Answer]:
    return [await ask(address_of(server), request_of(data)) for data, _ in digits]


async def _stay_and_leave(server: Any, digits: Digits, count: int) -> list[Answer]:
    """Those who stay, in order; as many others hang up at different moments."""
    address, room = address_of(server), asyncio.Semaphore(64)

    async def stay(number: int) -> Answer:
        async with room:
            return await ask(address, request_of(digits[number % len(digits)][0]))

    async def leave(number: int) -> None:
        async with room:
            await ask_and_leave(address, request_of(digits[number % len(digits)][0]), number % 4)

    stayers = [stay(number) for number in range(count)]
    leavers = [leave(number) for number in range(count)]
    mixed = [work for pair in zip(stayers, leavers, strict=True) for work in pair]
    outcomes = await asyncio.gather(*mixed)
    return [outcome for outcome in outcomes if outcome is not None]


@pytest.fixture(scope="module")
def small_house(run_server, tiny_bundle_dir, tmp_path_factory) -> Iterator[Any]:
    """A server with room for 16 images."""
    state_dir = tmp_path_factory.mktemp("small_house")
    with run_server(tiny_bundle_dir, state_dir, queue_size=16) as server:
        yield server


async def at_once(server: Any, digits: Digits, rounds: int) -> list[Answer]:
    """All digits `rounds` times, at the same moment."""
    requests = [request_of(data) for data, _ in digits] * rounds
    return await asyncio.gather(*(ask(address_of(server), request) for request in requests))


async def at_three_times_its_pace(server: Any, digits: Digits, rounds: int) -> list[Answer]:
    """All digits `rounds` times, whoever waits, three times as fast as eight callers who wait for
    their answers got them."""
    address, loop = address_of(server), asyncio.get_running_loop()
    requests = [request_of(data) for data, _ in digits]
    room = asyncio.Semaphore(8)

    async def patient(request: bytes) -> Answer:
        async with room:
            return await ask(address, request)

    started_s = loop.time()
    borne = await asyncio.gather(*map(patient, requests * 4))
    assert {answer.status for answer in borne} == {200}
    pause_s = (loop.time() - started_s) / len(borne) / 3
    started_s, asked = loop.time(), []
    for number, request in enumerate(requests * rounds):
        await asyncio.sleep(started_s + number * pause_s - loop.time())
        asked.append(asyncio.create_task(ask(address, request)))
    return await asyncio.gather(*asked)


@pytest.mark.parametrize("crowd", [at_once, at_three_times_its_pace])
def test_what_is_too_much_is_refused_at_once_and_the_rest_is_right(small_house, digit_pngs, crowd):
    """More than can be borne: 429 with Retry-After, or the right answer, and nothing else."""
    answers = asyncio.run(crowd(small_house, digit_pngs, 12))
    ready = httpx.get(f"{small_house.base_url}/readyz").status_code
    after = asyncio.run(ask(address_of(small_house), request_of(digit_pngs[0][0])))
    assert {answer.status for answer in answers} == {200, 429}
    for answer in answers:
        if answer.status == 429:
            assert answer.body["code"] == "overloaded"
            assert int(answer.headers["retry-after"]) >= 1
    right = [
        answer.body["label"] == digit_pngs[number % len(digit_pngs)][1]
        for number, answer in enumerate(answers)
        if answer.status == 200
    ]
    assert sum(right) > 0.9 * len(right)
    assert (ready, after.status) == (200, 200)


def test_a_stop_under_load_answers_everybody_who_was_connected(
    run_server, tiny_bundle_dir, tmp_path, digit_pngs
):
    """Whoever was connected before the stop began is answered; of those who come later, the last
    may be refused or reset."""
    answers: list[Answer] = []
    lost: list[OSError] = []
    stopping: list[bool] = []

    async def answered(server: Any, request: bytes) -> bool:
        late = bool(stopping)

        def connected() -> None:
            nonlocal late
            late = bool(stopping)

        try:
            answers.append(await ask(address_of(server), request, connected))
        except OSError as error:
            if not late:
                lost.append(error)
            return False
        return True

    async def caller(server: Any, number: int) -> None:
        while await answered(server, request_of(digit_pngs[number % len(digit_pngs)][0])):
            pass

    async def early_bird(server: Any) -> Answer:
        """Connected before the stop began, asks while it goes on."""
        reader, writer = await asyncio.open_connection(*address_of(server))
        while not stopping:
            await asyncio.sleep(0.01)
        writer.write(request_of(digit_pngs[0][0]))
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.read()
        writer.close()
        return Answer(int(head.split()[1]), {}, json.loads(body))

    async def scenario(server: Any) -> int:
        early = [asyncio.create_task(early_bird(server)) for _ in range(8)]
        callers = [asyncio.create_task(caller(server, number)) for number in range(16)]
        while len(answers) < 100:
            await asyncio.sleep(0.01)
        stopping.append(True)
        server.process.send_signal(signal.SIGTERM)
        answers.extend(await asyncio.gather(*early))
        await asyncio.gather(*callers)
        return int(await asyncio.to_thread(server.process.wait, 60))

    with run_server(tiny_bundle_dir, tmp_path, drain_delay_s=1) as server:
        code = asyncio.run(scenario(server))
    assert code == 0
    assert lost == []
    assert len(answers) > 108
    assert {answer.status for answer in answers} == {200}


def test_a_bomb_is_refused_and_costs_nobody_anything(
    run_server, tiny_bundle_dir, tmp_path, digit_pngs
):
    """A picture of 10,000 by 10,000 pixels in a few kilobytes, among the others."""
    data, label = digit_pngs[0]

    async def crowd(server: Any) -> tuple[list[Answer], list[Answer]]:
        bomb = request_of(bomb_png())
        bad = [ask(address_of(server), bomb) for _ in range(50)]
        good = [ask(address_of(server), request_of(data)) for _ in range(50)]
        mixed = await asyncio.gather(
            *(work for pair in zip(bad, good, strict=True) for work in pair)
        )
        return mixed[::2], mixed[1::2]

    with run_server(tiny_bundle_dir, tmp_path) as server:
        before = resident_bytes(server.process.pid)
        bad, good = asyncio.run(crowd(server))
        grown = resident_bytes(server.process.pid) - before
    assert {answer.body["code"] for answer in bad} == {"image_too_many_pixels"}
    assert {answer.body["label"] for answer in good} == {label}
    assert grown < 100 * 2**20, "something was decoded"


def bomb_png() -> bytes:
    """A grey PNG that decodes to 100 MB of zeros."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    packer = zlib.compressobj(9)
    rows = packer.compress(bytes(10_001 * 10_000)) + packer.flush()
    head = struct.pack(">IIBBBBB", 10_000, 10_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def resident_bytes(pid: int) -> int:
    [line] = [x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmRSS" in x]
    return 1024 * int(line.split()[1])


def test_the_port_is_free_again_after_the_end(run_server, tiny_bundle_dir, tmp_path):
    with run_server(tiny_bundle_dir, tmp_path) as server:
        host, port = address_of(server)
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(60)
    with socket.create_server((host, port)):
        pass
