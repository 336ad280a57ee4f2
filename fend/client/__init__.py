"""A client of a running service, for programs: `Client`, and `AsyncClient` for asyncio.

with Client("http://127.0.0.1:8000") as fend:
    answer = fend.classify("seven.png")
    print(answer.label, answer.confidence, answer.suspicion.flagged)
"""

from fend.client.answers import Classification
from fend.client.calls import Audit, Dataset, Model
from fend.client.clients import AsyncClient, Client
from fend.client.retry import ServiceUnreachable
from fend.errors import FendError, RemoteError

__all__ = [
    "AsyncClient",
    "Audit",
    "Classification",
    "Client",
    "Dataset",
    "FendError",
    "Model",
    "RemoteError",
    "ServiceUnreachable",
]
