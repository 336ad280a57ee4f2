"""Whether the service is on its way down: what readiness and long responses ask."""

import asyncio


class Lifecycle:
    """One for each app. `service/server.py` sets it when a signal arrives."""

    def __init__(self) -> None:
        self._draining = asyncio.Event()

    @property
    def draining(self) -> bool:
        """True from the first signal on."""
        return self._draining.is_set()

    def drain(self) -> None:
        """Be not ready from now on."""
        self._draining.set()

    async def wait_draining(self) -> None:
        """Return when draining starts: for responses that have no end of their own."""
        await self._draining.wait()
