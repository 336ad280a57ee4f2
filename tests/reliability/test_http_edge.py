"""What odd, careless and hostile clients may do on a socket, and what they get."""

import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from raw_http import all_of, connect, exchange, statuses

TOKEN = "a-token-for-tests"
LIMIT_S = 2
LIVEZ = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module")
def server(run_server, tiny_bundle_dir, tmp_path_factory) -> Iterator[Any]:
    state = tmp_path_factory.mktemp("edge")
    with run_server(tiny_bundle_dir, state, receive_timeout_s=LIMIT_S, admin_token=TOKEN) as server:
        yield server


def classify(data: bytes, *fields: bytes, path: bytes = b"/v1/classify") -> bytes:
    head = [b"POST " + path + b" HTTP/1.1", b"Host: x", b"Content-Type: image/png", *fields]
    return b"\r\n".join([*head, b"Content-Length: %d" % len(data), b"", b""])


@pytest.mark.parametrize("leftover", [b"\r\n", b"\r", b"G", b"GET /livez HT"])
def test_a_connection_that_begins_no_request_is_closed(server: Any, leftover: bytes) -> None:
    with connect(server) as connection:
        connection.sendall(LIVEZ)
        first = connection.recv(65536)
        connection.sendall(leftover)
        assert statuses(first + all_of(connection)) == [200]


def test_an_answer_before_the_end_of_a_body_closes_the_connection(server: Any) -> None:
    head = b"POST /v1/admin/audits HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
    answers = exchange(server, head + b"{")
    assert statuses(answers) == [401]
    assert b"connection: close" in answers.lower()


def test_the_key_is_checked_before_the_body_comes(server: Any) -> None:
    head = b"POST /v1/admin/audits HTTP/1.1\r\nHost: x\r\nContent-Length: 200000000\r\n\r\n"
    assert statuses(exchange(server, head)) == [401]


def test_a_spec_has_a_small_limit(server: Any) -> None:
    response = httpx.post(
        f"{server.base_url}/v1/admin/audits",
        content=b"[" + b"0," * 300_000 + b"0]",
        headers={"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"},
    )
    assert (response.status_code, response.json()["code"]) == (413, "body_too_large")


@pytest.mark.parametrize(
    ("status", "request_bytes"),
    [
        (431, b"GET /livez HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 101),
        (431, b"GET /livez HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 70_000),
        (431, b"GET /livez HTTP/1.1\r\nHost: x\r\n" + b"b" * 70_000),
        (414, b"GET /" + b"b" * 70_000),
        (
            431,
            b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
            + b"A: b\r\n" * 101,
        ),
    ],
    ids=["fields", "value", "name", "target", "trailers"],
)
def test_heads_have_limits_while_they_arrive(server, status, request_bytes):
    assert statuses(exchange(server, request_bytes)) == [status]


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket"])
def test_upgrade_is_ignored_and_the_body_is_the_body(server, digit_pngs, protocol):
    data, label = digit_pngs[0]
    upgrade = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: " + protocol)
    with connect(server) as connection:
        connection.sendall(classify(data, *upgrade) + data)
        connection.sendall(LIVEZ.replace(b"x\r\n", b"x\r\nConnection: close\r\n"))
        answers = all_of(connection)
    assert statuses(answers) == [200, 200]
    assert b'"label":"%s"' % label.encode() in answers.replace(b": ", b":")


def test_a_request_inside_a_body_is_not_served(server: Any) -> None:
    upgrade = (b"Connection: Upgrade, close", b"Upgrade: h2c")
    answers = exchange(server, classify(LIVEZ, *upgrade), LIVEZ)
    assert statuses(answers) in ([415], [422])


@pytest.mark.parametrize(
    ("version", "hosts", "status"),
    [(b"1.1", 0, 400), (b"1.1", 2, 400), (b"1.1", 1, 200), (b"1.0", 0, 200), (b"1.0", 1, 200)],
)
def test_host_stands_once(server: Any, version: bytes, hosts: int, status: int) -> None:
    lines = [b"GET /livez HTTP/" + version, *[b"Host: x"] * hosts, b"Connection: close", b"", b""]
    assert statuses(exchange(server, b"\r\n".join(lines))) == [status]


@pytest.mark.parametrize("charset", ["punycode", "undefined", "idna", "utf-16", "no-such"])
def test_the_charset_of_a_form_is_nobodys_choice(server, digit_pngs, charset):
    data, label = digit_pngs[0]
    body = (
        b'--B\r\nContent-Disposition: form-data; name="file"; filename="a-\xc3\xa9.png"\r\n\r\n'
        + data
        + b"\r\n--B--\r\n"
    )
    kind = f"multipart/form-data; boundary=B; charset={charset}"
    response = httpx.post(
        f"{server.base_url}/v1/classify", content=body, headers={"Content-Type": kind}
    )
    assert (response.status_code, response.json().get("label")) == (200, label)


@pytest.mark.parametrize(
    "path",
    ["/v1/classify", "/v1/classify/batch", "/v1/denoise", "/v2/models/mnist/infer",
     "/v1/admin/audits", "/v1/admin/datasets"],
)  # fmt: skip
def test_who_leaves_while_sending_is_no_fault_of_the_service(server: Any, path: str) -> None:
    kind = {"/v1/classify/batch": "multipart/form-data; boundary=x"}.get(path, "image/png")
    if path.startswith(("/v2", "/v1/admin")):
        kind = "application/zip" if path.endswith("datasets") else "application/json"
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
        f"Content-Type: {kind}\r\nContent-Length: 1000\r\n\r\n"
    )
    before, wanted = gone(server), threading.Event()
    with connect(server) as connection:
        connection.sendall(head.encode() + b"--x\r\n")
        wanted.wait(0.2)  # the service has begun to read
    for _ in range(100):
        if gone(server) > before:
            break
        wanted.wait(0.1)
    assert gone(server) == before + 1
    metrics = httpx.get(f"{server.base_url}/metrics").text
    assert not [line for line in metrics.splitlines() if 'status="500"' in line]
    assert "Traceback" not in server.output()


def gone(server: Any) -> float:
    """How many requests ended with 499 so far."""
    metrics = httpx.get(f"{server.base_url}/metrics").text
    name = "fend_http_request_duration_seconds_count{"
    return sum(
        float(line.split()[-1])
        for line in metrics.splitlines()
        if line.startswith(name) and 'status="499"' in line
    )


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/classify", {"POST"}),
        ("/v1/models", {"GET", "HEAD"}),
        ("/v1/admin/audits", {"GET", "HEAD", "POST"}),
        ("/v1/admin/datasets", {"GET", "HEAD", "POST"}),
    ],
)
def test_allow_names_every_method_of_a_path(server: Any, path: str, allowed: set[str]) -> None:
    response = httpx.request(
        "PATCH", server.base_url + path, headers={"Authorization": f"Bearer {TOKEN}"}
    )
    assert response.status_code == 405
    assert {name.strip() for name in response.headers["allow"].split(",")} == allowed


def test_head_is_get_without_a_body(server: Any) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}", "X-Request-ID": "a"}
    paths = ["/", "/docs", "/docs/start.js", "/docs/swagger-ui.css", "/openapi.json", "/nowhere"]
    documented = httpx.get(f"{server.base_url}/openapi.json").json()["paths"]
    paths += [path.replace("{name}", "mnist") for path, of in documented.items() if "get" in of]
    for path in paths:
        got = httpx.get(server.base_url + path, headers=headers)
        asked = httpx.head(server.base_url + path, headers=headers)
        assert (path, asked.status_code, asked.content) == (path, got.status_code, b"")
        for name in ("content-type", "content-length", "etag"):
            if (path, name) != ("/metrics", "content-length"):  # it counts the request before it
                assert asked.headers.get(name) == got.headers.get(name), (path, name)


@pytest.mark.parametrize("path", ["/v1/models/", "/v1/models/mnist/", "/livez/", "/v1/classify/"])
def test_redirects_stay_here_whatever_host_says(server: Any, path: str) -> None:
    method = "POST" if "classify" in path else "GET"
    url, headers = f"{server.base_url}{path}?a=%2F", {"Host": "evil.example"}
    response = httpx.request(method, url, headers=headers)
    assert (response.status_code, response.headers["location"]) == (307, f"{path[:-1]}?a=%2F")
