"""A client of a running service, for programs: `Client`, and `AsyncClient` for asyncio.

with Client("http://127.0.0.1:8000") as fend:
    answer = fend.classify(Path("seven.png"))
    print(answer.label, answer.confidence, answer.suspicion.flagged)
"""

from fend.answers import Classification
from fend.client.asynchronous import AsyncClient
from fend.client.calls import ImageUnreadable, Model
from fend.client.synchronous import Client
from fend.service_errors import ServiceRefused, ServiceUnreachable

__all__ = [
    "AsyncClient",
    "Classification",
    "Client",
    "ImageUnreadable",
    "Model",
    "ServiceRefused",
    "ServiceUnreachable",
]
