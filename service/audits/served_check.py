"""Sends adversarial images of an audit to the running service, as any client would.

An attack works on floats, but a picture arrives as 8 bits, by HTTP, through a decoder: what is
served is judged there too.
"""

import base64
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from fend.audit import AuditSpec, Row
from fend.audit.rows import AttackRow, ExampleRow, ServedRow
from fend.client import Classification, Client, RemoteError, ServiceUnreachable
from fend.errors import Unavailable
from fend.threat import Knowledge

ATTACKS = ("fgsm", "pgd")
PICTURES_A_LINE = 16
PATIENCE_S = 120.0
"""In all, for a service that starts, is full, or drains."""
PAUSE_S = 0.5
REQUEST_TIMEOUT_S = 15.0
TRY_AGAIN = frozenset({429, 503, 504})
GONE = frozenset({"model_unknown", "model_unloaded"})
"""Waiting will not help."""

_Key = tuple[Knowledge, int, int]
"""Level, attack, image."""


class ServiceSilent(Unavailable):
    """The service gave no answers that could be compared."""

    code = "service_silent"


@dataclass(frozen=True)
class OwnService:
    """Where this very service answers, and a key that it takes."""

    url: str
    key: str = field(repr=False)


@dataclass(frozen=True)
class Picture:
    """An adversarial image as an 8-bit PNG, rounded, and what the audit knows of it."""

    png: bytes
    attacked: AttackRow


def pictures_to_send(spec: AuditSpec, shards: Iterable[list[Row]]) -> list[Picture]:
    """The first examples of each FGSM and PGD line, by their places in the data set; none where
    the rows hold the service's answers already."""
    attacks = {number for number, attack in enumerate(spec.attacks) if attack.name in ATTACKS}
    found: dict[tuple[Knowledge, int], list[Picture]] = defaultdict(list)
    for rows in shards:
        attacked: dict[_Key, AttackRow] = {}
        for row in rows:
            if isinstance(row, ServedRow):
                return []
            if isinstance(row, AttackRow) and row.attack in attacks:
                attacked[row.knowledge, row.attack, row.index] = row
        for row in rows:
            if isinstance(row, ExampleRow) and row.attack in attacks:
                picture = Picture(
                    base64.b64decode(row.adversarial_png),
                    attacked[row.knowledge, row.attack, row.index],
                )
                found[row.knowledge, row.attack].append(picture)
    return [
        picture
        for line in found.values()
        for picture in sorted(line, key=lambda picture: picture.attacked.index)[:PICTURES_A_LINE]
    ]


def served_rows(
    service: OwnService,
    spec: AuditSpec,
    version: str,
    pictures: list[Picture],
    stop: threading.Event,
) -> list[Row]:
    """One row a picture. Blocks; `stop` ends it within one answer.

    Raises:
        ServiceSilent: no answers, none of version `version` of the model, or `stop` was set.
    """
    deadline_s = time.monotonic() + PATIENCE_S
    rows: list[Row] = []
    # Without the client's own patience, which `stop` could not end.
    with Client(service.url, key=service.key, timeout_s=REQUEST_TIMEOUT_S, patience_s=0) as client:
        for picture in pictures:
            while isinstance(answer := _ask(client, spec.model, picture.png), ServiceUnreachable):
                if time.monotonic() > deadline_s or stop.wait(PAUSE_S):
                    raise ServiceSilent(f"{service.url} gave no answer in {PATIENCE_S:g} s")
            if answer is not None and answer.model.version != version:
                raise ServiceSilent(
                    f"the service answers with version {answer.model.version} of the model now, "
                    f"the audit attacked {version}"
                )
            attacked = picture.attacked
            rows.append(
                ServedRow(
                    index=attacked.index,
                    label=attacked.label,
                    knowledge=attacked.knowledge,
                    attack=attacked.attack,
                    answer=attacked.answer,
                    served_answer=None if answer is None else answer.index,
                )
            )
            if stop.is_set():
                raise ServiceSilent("the service stops")
    return rows


def _ask(client: Client, model: str, png: bytes) -> Classification | ServiceUnreachable | None:
    """The answer; None where there is none for this picture; ServiceUnreachable where there may be
    one a little later."""
    try:
        return client.classify(png, model=model, top_k=1)
    except ServiceUnreachable as error:
        return error
    except RemoteError as error:
        if error.code in GONE:
            raise ServiceSilent("the service does not serve the audited model any more") from error
        return ServiceUnreachable(str(error)) if error.status in TRY_AGAIN else None
