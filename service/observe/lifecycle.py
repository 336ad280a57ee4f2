"""Whether the service is shutting down, for readiness and endless responses."""

import asyncio


class Lifecycle:
    """Shutdown state of one app; `service/server.py` starts the drain when a signal arrives."""

    def __init__(self) -> None:
        self._draining = asyncio.Event()

    @property
    def draining(self) -> bool:
        """True from the first signal on."""
        return self._draining.is_set()

    def drain(self) -> None:
        """Report not ready from now on."""
        self._draining.set()

    async def wait_draining(self) -> None:
        """Return when draining starts, so that endless responses can finish."""
        await self._draining.wait()
