"""Sends adversarial images of an audit to the running service, as any client would.

An attack works on floats, but a picture arrives as 8 bits, by HTTP, through a decoder: what is
served is judged there too.
"""

import base64
import json
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import urlencode, urlsplit

from fend.audit import AuditSpec, Row
from fend.audit.rows import AttackRow, ExampleRow, ServedRow
from fend.errors import FendError
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


class ServiceSilent(FendError):
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
    host = urlsplit(service.url).netloc
    headers = {"Content-Type": "image/png", "Authorization": f"Bearer {service.key}"}
    path = "/v1/classify?" + urlencode({"model": spec.model, "top_k": 1})
    deadline_s = time.monotonic() + PATIENCE_S
    rows: list[Row] = []
    for picture in pictures:
        while (answer := _ask(host, path, picture.png, headers)) is None:
            if time.monotonic() > deadline_s or stop.wait(PAUSE_S):
                raise ServiceSilent(f"{service.url} gave no answer in {PATIENCE_S:g} s")
        rows.append(_row(picture, answer, version))
        if stop.is_set():
            raise ServiceSilent("the service stops")
    return rows


@dataclass(frozen=True)
class _Answer:
    status: int
    body: dict[str, Any]

    @property
    def code(self) -> str | None:
        """Of the problem, where it is one."""
        return self.body.get("code")


def _ask(host: str, path: str, png: bytes, headers: dict[str, str]) -> _Answer | None:
    """The service's answer; None when it may have one a little later."""
    connection = HTTPConnection(host, timeout=REQUEST_TIMEOUT_S)
    try:
        connection.request("POST", path, png, headers)
        response = connection.getresponse()
        status, body = response.status, response.read()
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()
    answer = _Answer(status, json.loads(body))
    return None if status in TRY_AGAIN and answer.code not in GONE else answer


def _row(picture: Picture, answer: _Answer, version: str) -> ServedRow:
    served = None
    if answer.status == 200:
        if answer.body["model"]["version"] != version:
            raise ServiceSilent(
                f"the service answers with version {answer.body['model']['version']} of the model "
                f"now, the audit attacked {version}"
            )
        served = answer.body["index"]
    elif answer.code in GONE:
        raise ServiceSilent("the service does not serve the audited model any more")
    return ServedRow(
        index=picture.attacked.index,
        label=picture.attacked.label,
        knowledge=picture.attacked.knowledge,
        attack=picture.attacked.attack,
        answer=picture.attacked.answer,
        served_answer=served,
    )
