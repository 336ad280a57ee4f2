"""Asking the running service: which pictures, and what becomes of odd answers."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from fend.attacks import APGD, FGSM, PGD
from fend.audit import AuditSpec
from fend.audit.rows import AttackRow, ExampleRow, Row, ServedRow
from fend.threat import Knowledge
from service.audits import served_check
from service.audits.served_check import OwnService, ServiceSilent, pictures_to_send, served_rows

SPEC = AuditSpec(model="mnist", attacks=(FGSM(), APGD(), PGD(steps=5)))


def answer(version: str) -> tuple[int, Any]:
    label = {"label": "4", "index": 4, "confidence": 0.9}
    said = {
        **label,
        "model": {"name": "mnist", "version": version},
        "top_k": [],
        "undefended": label,
        "suspicion": {"score": 0.0, "threshold": 0.3, "flagged": False},
        "input": {"format": "png", "size_px": [28, 28], "resized": False, "inverted": False},
    }
    return 200, said


def problem(status: int, code: str) -> tuple[int, Any]:
    return status, {"code": code, "detail": "because"}


OK = answer("v1")


def attacked(index: int, attack: int) -> AttackRow:
    return AttackRow(
        index=index, label=7, knowledge=Knowledge.WHITE_BOX, attack=attack, attack_name="x",
        attacked_model_fooled=True, answer=4, confidence=0.9, undefended_answer=4,
        undefended_confidence=0.9, distance=0.2, seen_fooled=True, zero_gradient=False,
        broken_gradient=False, late_gain=None,
    )  # fmt: skip


def example(index: int, attack: int) -> ExampleRow:
    png = base64.b64encode(b"picture %d" % index).decode()
    return ExampleRow(
        index=index, knowledge=Knowledge.WHITE_BOX, attack=attack, clean_png="", denoised_png="",
        adversarial_png=png,
    )  # fmt: skip


def shard(*indices: int) -> list[Row]:
    rows: list[Row] = []
    for attack in range(3):
        rows += [attacked(index, attack) for index in indices]
        rows += [example(index, attack) for index in indices]
    return rows


@contextmanager
def answering(*answers: tuple[int, Any]) -> Iterator[tuple[str, list[bytes]]]:
    """A service that gives these answers, then the last one for ever; its URL and what it got."""
    got: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/classify?model=mnist&top_k=1"
            form = self.rfile.read(int(self.headers["Content-Length"]))
            got.append(form.split(b"\r\n\r\n")[1].split(b"\r\n")[0])
            status, body = answers[min(len(got), len(answers)) - 1]
            text = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", got
        finally:
            server.shutdown()
            thread.join()


def test_the_first_pictures_of_each_fgsm_and_pgd_line_are_sent() -> None:
    shards = [shard(*range(40, 20, -1)), shard(*range(20))]
    pictures = pictures_to_send(SPEC, shards)
    assert [(p.attacked.attack, p.attacked.index) for p in pictures] == [
        (attack, index) for attack in (0, 2) for index in range(16)
    ]
    assert pictures[3].png == b"picture 3"


def test_what_was_asked_once_is_not_asked_again() -> None:
    served = ServedRow(index=1, label=7, knowledge=Knowledge.WHITE_BOX, attack=0, answer=4,
                       served_answer=4)  # fmt: skip
    assert pictures_to_send(SPEC, [shard(1), [served]]) == []


def test_a_service_that_is_busy_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_check, "PAUSE_S", 0.01)
    pictures = pictures_to_send(SPEC, [shard(1, 2)])
    busy, broken = problem(429, "overloaded"), problem(500, "answer_not_finite")
    with answering(busy, problem(503, "draining"), OK, broken, OK) as (url, got):
        rows = served_rows(OwnService(url, "k"), SPEC, "v1", pictures, threading.Event())
    assert got[:3] == [b"picture 1"] * 3
    answers = [row.served_answer for row in rows if isinstance(row, ServedRow)]
    assert answers == [4, None, 4, 4]  # no answer is no agreement


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (answer("v2"), "version v2"),
        (problem(404, "model_unknown"), "any more"),
        (problem(503, "draining"), "gave no answer"),
    ],
)
def test_a_service_that_serves_something_else_says_nothing_of_this_audit(given, says, monkeypatch):
    monkeypatch.setattr(served_check, "PAUSE_S", 0.01)
    monkeypatch.setattr(served_check, "PATIENCE_S", 0.05)
    pictures = pictures_to_send(SPEC, [shard(1)])
    with answering(given) as (url, _), pytest.raises(ServiceSilent, match=says):
        served_rows(OwnService(url, "k"), SPEC, "v1", pictures, threading.Event())


def test_it_ends_when_it_is_told_to() -> None:
    pictures = pictures_to_send(SPEC, [shard(1, 2)])
    stop = threading.Event()
    stop.set()
    with answering(OK) as (url, got), pytest.raises(ServiceSilent):
        served_rows(OwnService(url, "k"), SPEC, "v1", pictures, stop)
    assert len(got) == 1
