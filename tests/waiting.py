"""Waiting for what happens in other threads and processes, without a fixed time."""

import time
from collections.abc import Callable
from typing import Any


def until(look: Callable[[], Any], holds: Callable[[Any], object] = bool) -> Any:
    """What `look` sees, once `holds` of it; fails when it does not in four minutes."""
    deadline_s = time.monotonic() + 240
    while not holds(seen := look()):
        assert time.monotonic() < deadline_s, f"it did not happen in time: {seen}"
        time.sleep(0.01)
    return seen
