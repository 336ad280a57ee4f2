"""The short way through the app answers what the long way does."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from service.app import create_app
from service.settings import Settings

Digits = list[tuple[bytes, str]]
SHORT, LONG = "/v1/classify", "/v1/classify?top_k=5"  # a parameter is FastAPI's business


def ask(client: httpx.Client, path: str, data: bytes, **headers: str) -> httpx.Response:
    return client.post(path, content=data, headers={"Content-Type": "image/png", **headers})


def test_both_ways_give_the_same_answer(app_client: httpx.Client, digit_pngs: Digits) -> None:
    for data, _ in digit_pngs[:16]:
        short, long = ask(app_client, SHORT, data), ask(app_client, LONG, data)
        assert short.status_code == long.status_code == 200
        assert short.content == long.content
        assert set(short.headers) == set(long.headers)
        assert short.headers["content-type"] == long.headers["content-type"]


@pytest.mark.parametrize(
    ("data", "headers"),
    [
        (b"", {}),
        (b"hello", {}),
        (b"\x89PNG\r\n\x1a\n", {}),
        (b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + bytes(17), {}),
        (b"\xff\xd8\xff", {}),
        (b"hello", {"X-Request-Timeout": "never"}),
        (b"hello", {"Content-Type": "image/webp"}),
    ],
)
def test_both_ways_give_the_same_problem(
    app_client: httpx.Client, data: bytes, headers: dict[str, str]
) -> None:
    answers = [ask(app_client, path, data, **headers) for path in (SHORT, LONG)]
    short, long = ({**answer.json(), "request_id": ""} for answer in answers)
    assert short == long
    assert answers[0].status_code == answers[1].status_code >= 400
    assert answers[0].headers["content-type"] == "application/problem+json"


def test_both_ways_want_a_key(
    app_settings: Settings,
    serve_app: Callable[[FastAPI], AbstractContextManager[Any]],
    digit_pngs: Digits,
) -> None:
    data = digit_pngs[0][0]
    closed = app_settings.model_copy(update={"inference_key": SecretStr("right")})
    with serve_app(create_app(closed)) as c:
        for path in (SHORT, LONG):
            refused = ask(c, path, data)
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"] == "Bearer"
            assert ask(c, path, data, Authorization="Bearer wrong").status_code == 401
            assert ask(c, path, data, Authorization="Bearer right").status_code == 200
            assert ask(c, path, data, **{"X-API-Key": "right"}).status_code == 200


def test_both_ways_count_as_the_same_route(app_client: httpx.Client, digit_pngs: Digits) -> None:
    def count() -> float:
        [line] = [
            line
            for line in app_client.get("/metrics").text.splitlines()
            if line.startswith("fend_http_request_duration_seconds_count")
            and 'route="/v1/classify",status="200"' in line
        ]
        return float(line.split()[-1])

    ask(app_client, SHORT, digit_pngs[0][0])
    before = count()
    ask(app_client, SHORT, digit_pngs[0][0])
    ask(app_client, LONG, digit_pngs[0][0])
    assert count() == before + 2
