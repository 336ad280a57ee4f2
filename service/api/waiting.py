"""Waiting for whichever of several things happens first, but not for ever."""

import asyncio
from collections.abc import Coroutine
from typing import Any


async def first_of(timeout_s: float, *waits: Coroutine[Any, Any, None]) -> bool:
    """Return when the first of `waits` does, and drop the others; whether one did in time."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()  # raises what it raised
        return bool(done)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
