"""Clients that take their time keep nobody else out."""

import re
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import httpx
import pytest
from raw_http import all_of, connect

SLOW = 300
HEAD = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"


@pytest.fixture
def server(run_server, tiny_bundle_dir, tmp_path) -> Iterator[Any]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert min(soft, hard) > 2 * SLOW
    settings = {"receive_timeout_s": 2, "max_connections": 100}
    with run_server(tiny_bundle_dir, tmp_path, **settings) as server:
        yield server


def whole_answer(connection: socket.socket) -> bytes:
    """One response, as long as it says it is."""
    received = b""
    while not (found := re.search(rb"content-length: (\d+)\r\n(?:.*\r\n)*?\r\n", received, re.I)):
        received += connection.recv(65536)
    while len(received) < found.end() + int(found[1]):
        received += connection.recv(65536)
    return received


def test_many_half_heads_keep_nobody_out(server, digit_pngs):
    data, label = digit_pngs[0]
    with ExitStack() as stack:
        slow = [stack.enter_context(connect(server)) for _ in range(SLOW)]
        for connection in slow:
            with suppress(OSError):  # it may have had to make room already
                connection.sendall(HEAD[:20])
        with httpx.Client(base_url=server.base_url, timeout=30) as client:
            for _ in range(5):
                response = client.post(
                    "/v1/classify", content=data, headers={"Content-Type": "image/png"}
                )
                assert response.json()["label"] == label
        # All of them are gone after a while, though they never end by themselves.
        for connection in slow:
            assert all_of(connection) == b""


def test_a_connection_that_says_nothing_is_closed(server):
    with connect(server) as connection:
        assert all_of(connection) == b""


def test_a_body_that_does_not_come_is_a_408(server, digit_pngs):
    data = digit_pngs[0][0]
    with connect(server) as connection:
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(data) + data[:50])
        answer = all_of(connection)
    assert answer.startswith(b"HTTP/1.1 408"), answer
    assert b"request_too_slow" in answer


def test_a_second_request_on_a_connection_has_its_own_time(server, digit_pngs):
    data, _ = digit_pngs[0]
    request = HEAD + b"Content-Length: %d\r\n\r\n" % len(data) + data
    with connect(server) as connection:
        for _ in range(4):
            connection.sendall(request)
            assert whole_answer(connection).startswith(b"HTTP/1.1 200")
            time.sleep(0.8)  # together more than the deadline
        connection.sendall(HEAD[:10])
        assert all_of(connection) == b""
