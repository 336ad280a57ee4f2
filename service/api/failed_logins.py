"""Guessing keys is slow: an address that sends too many wrong ones is refused for a while."""

import math
import time
from collections import OrderedDict, deque

from fend.errors import FendError

MOST = 10
WINDOW_S = 60.0
"""So many wrong keys in that time, then nothing more from the address until the first is so old."""
ADDRESSES = 10_000
"""Remembered at once; the one that failed longest ago is forgotten first."""


class TooManyFailures(FendError):
    """Too many wrong keys came from this address."""

    code = "too_many_failures"

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(
            f"too many wrong keys came from your address; try again in {retry_after_s} s"
        )
        self.retry_after_s = retry_after_s


class FailedLogins:
    """The wrong keys of late, by address. A right key resets nothing: it may be luck."""

    def __init__(self) -> None:
        self._times_s: OrderedDict[str, deque[float]] = OrderedDict()

    def check(self, address: str) -> None:
        """Return when `address` may try a key; raises TooManyFailures when it may not."""
        times_s = self._times_s.get(address)
        if times_s is not None and len(times_s) == MOST:
            wait_s = times_s[0] + WINDOW_S - time.monotonic()
            if wait_s > 0:
                raise TooManyFailures(max(1, math.ceil(wait_s)))

    def count(self, address: str) -> None:
        """Note a wrong key."""
        times_s = self._times_s.setdefault(address, deque(maxlen=MOST))
        times_s.append(time.monotonic())
        self._times_s.move_to_end(address)
        if len(self._times_s) > ADDRESSES:
            self._times_s.popitem(last=False)
