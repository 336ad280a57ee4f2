"""Questions that arrive at a fixed rate, whether or not the ones before were answered (open loop).

Latency counts from when a question was due, so a server that makes the asker late is seen.
"""

import asyncio
import gc
import random
import time
from dataclasses import dataclass

import uvloop

from benchmarks.load import RETRY_AFTER, Connection, Question, connect

MOST_CONNECTIONS = 900
READY_CONNECTIONS = 500
"""Opened before the first question: a server accepts a crowd one by one, and this is not that."""


@dataclass(frozen=True)
class Asked:
    """One question."""

    due_s: float
    """Seconds from the start of the load."""
    latency_s: float
    status: int
    """0: the connection was lost, or there was none to be had."""
    retry_after_s: int | None


def ask_at_a_rate(question: Question, rate_per_s: float, duration_s: float) -> list[Asked]:
    """Ask at random moments, `rate_per_s` on average, and wait for what is still out."""
    return uvloop.run(_ask_at_a_rate(question, rate_per_s, duration_s))


async def _ask_at_a_rate(question: Question, rate_per_s: float, duration_s: float) -> list[Asked]:
    requests, dice, clock = question.requests(), random.Random(0), time.perf_counter
    free: list[Connection] = []
    asked: list[Asked] = []
    out = open_connections = 0

    async def ask(due_s: float, number: int) -> None:
        nonlocal out, open_connections
        while free and free[-1].lost:  # the server closes those that have been idle for long
            free.pop()
            open_connections -= 1
        if free:
            connection = free.pop()
        elif open_connections < MOST_CONNECTIONS:
            open_connections += 1
            connection = await connect(question.url, lambda *_: None)
        else:
            asked.append(Asked(due_s, 0.0, 0, None))
            return
        out += 1

        def answered(status: int, head: bytes, _body: bytes) -> None:
            nonlocal out, open_connections
            out -= 1
            retry = RETRY_AFTER.search(head)
            latency_s = clock() - started_s - due_s
            asked.append(Asked(due_s, latency_s, status, int(retry[1]) if retry else None))
            if status:
                free.append(connection)
            else:
                open_connections -= 1
            connection.on_answer = lambda *_: None

        connection.on_answer = answered
        connection.ask(requests[number % len(requests)])

    while open_connections < READY_CONNECTIONS:
        free.append(await connect(question.url, lambda *_: None))
        open_connections += 1
    gc.disable()
    loop = asyncio.get_running_loop()
    started_s, due_s, number = clock(), 0.0, 0
    opening: set[asyncio.Task[None]] = set()
    while due_s < duration_s:
        while due_s <= clock() - started_s:
            if free:
                await ask(due_s, number)
            else:  # opening one takes a while, and others are due
                task = loop.create_task(ask(due_s, number))
                opening.add(task)
                task.add_done_callback(opening.discard)
            number += 1
            due_s += dice.expovariate(rate_per_s)
        await asyncio.sleep(0.001)
    waited_s = 0.0
    while (out or opening) and waited_s < 15:
        await asyncio.sleep(0.01)
        waited_s += 0.01
    gc.enable()
    return asked
