"""Tells whoever follows an audit that there is news; what it is, they read from the disk."""

import asyncio


class Changes:
    """Counts the news. Read `count`, then the disk, then wait `after` that count: nothing is missed
    in between, and nothing piles up for a reader that is slow."""

    def __init__(self) -> None:
        self._count = 0
        self._condition = asyncio.Condition()

    @property
    def count(self) -> int:
        """News so far."""
        return self._count

    async def announce(self) -> None:
        """There is news."""
        async with self._condition:
            self._count += 1
            self._condition.notify_all()

    async def after(self, count: int) -> None:
        """Return as soon as there is more news than `count`."""
        async with self._condition:
            await self._condition.wait_for(lambda: self._count > count)
