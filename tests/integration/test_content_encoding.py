"""Compressed bodies: decoded within the limits, on every route, or refused by name."""

import gzip
import json
import zlib
from typing import Any

import httpx
import pytest

INFER = "/v2/models/mnist/infer"
PNG_TYPE = {"Content-Type": "image/png"}
ADMIN = {"Authorization": "Bearer a-token-for-tests"}


def raw_deflate(data: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-15)
    return deflater.compress(data) + deflater.flush()


CODED = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "GZip": gzip.compress,
    "identity, gzip": gzip.compress,
    "deflate": zlib.compress,
    "Deflate": raw_deflate,
    "": bytes,
    "identity": bytes,
}


def form(png: bytes, count: int = 1) -> tuple[bytes, str]:
    files = [("file", ("a.png", png, "image/png"))] * count
    request = httpx.Request("POST", "http://x", files=files)
    return request.read(), request.headers["content-type"]


@pytest.mark.parametrize("encoding", CODED)
def test_compressed_bodies_are_what_they_were(app_client, digit_pngs, encoding):
    png, label = digit_pngs[0]
    coding = {"Content-Encoding": encoding}

    def post(path: str, body: bytes, content_type: str) -> Any:
        headers = coding | {"Content-Type": content_type}
        response = app_client.post(path, content=CODED[encoding](body), headers=headers)
        assert response.status_code == 200, response.text
        return response.json()

    assert post("/v1/classify", png, "image/png")["label"] == label
    assert post("/v1/classify", *form(png))["label"] == label
    outcomes = post("/v1/classify/batch", *form(png, 3))["outcomes"]
    assert [outcome["result"]["label"] for outcome in outcomes] == [label] * 3
    pixels = json.dumps({"pixels": [[0.5] * 28] * 28}).encode()
    assert post("/v1/classify", pixels, "application/json")["input"]["format"] == "tensor"
    sent = {"name": "pixels", "datatype": "UINT8", "shape": [1, 1, 28, 28], "data": [0] * 784}
    assert post(INFER, json.dumps({"inputs": [sent]}).encode(), "application/json")["outputs"]
    assert post("/v2/repository/index", b'{"ready": true}', "application/json")


def test_bodies_in_chunks_and_gzip_in_members(app_client, digit_pngs):
    png, label = digit_pngs[0]
    members = gzip.compress(png[:100]) + gzip.compress(b"") + gzip.compress(png[100:])
    for encoding, body in (
        ("gzip", members), ("deflate", zlib.compress(png)), ("deflate", raw_deflate(png))
    ):  # fmt: skip
        pieces = (body[index : index + 1] for index in range(len(body)))
        headers = PNG_TYPE | {"Content-Encoding": encoding}
        response = app_client.post("/v1/classify", content=pieces, headers=headers)
        assert response.json().get("label") == label, response.text


@pytest.mark.parametrize(
    "encoding", ["br", "zstd", "compress", "gzip, gzip", "deflate, gzip", "aes128gcm", "x" * 5000]
)
@pytest.mark.parametrize("path", ["/v1/classify", "/v1/denoise", INFER])
def test_other_codings_are_refused_by_name(app_client, path, encoding):
    headers = PNG_TYPE | {"Content-Encoding": encoding}
    response = app_client.post(path, content=b"anything", headers=headers)
    assert response.status_code == 415
    assert response.headers["accept-encoding"] == "gzip, deflate"
    said = response.json()
    if "error" in said:
        assert encoding[:100] in said["error"]
    else:
        assert said["code"] == "unsupported_content_encoding"
        assert encoding[:100] in said["detail"]


GZIPPED = gzip.compress(b"x" * 1000)


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", b"this is no gzip"),
        ("gzip", GZIPPED[:-1]),
        ("gzip", GZIPPED[:5]),
        ("gzip", GZIPPED[:-8] + b"\0" * 8),
        ("gzip", GZIPPED + b"trailer"),
        ("deflate", zlib.compress(b"x" * 1000)[:-1]),
        ("deflate", zlib.compress(b"x" * 1000) + b"trailer"),
        ("deflate", b"x"),
        ("deflate", b"\xff\xff"),
    ],
)
def test_what_is_not_compressed_as_it_says_is_told(app_client, encoding, body):
    headers = PNG_TYPE | {"Content-Encoding": encoding}
    response = app_client.post("/v1/classify", content=body, headers=headers)
    assert (response.status_code, response.json()["code"]) == (400, "content_encoding_invalid")


@pytest.mark.parametrize("path", ["/v1/classify", INFER])
def test_the_limit_holds_for_what_comes_out(app_client: httpx.Client, path: str) -> None:
    deflater = zlib.compressobj(9, wbits=31)
    bomb = b"".join(deflater.compress(bytes(2**20)) for _ in range(2000)) + deflater.flush()
    assert len(bomb) < 3 * 2**20
    headers = PNG_TYPE | {"Content-Encoding": "gzip"}
    response = app_client.post(path, content=bomb, headers=headers)
    assert response.status_code == 413
    assert "10485760 bytes" in response.text


def test_an_empty_body_is_empty_in_any_coding(app_client: httpx.Client) -> None:
    for encoding in ("gzip", "deflate"):
        headers = PNG_TYPE | {"Content-Encoding": encoding}
        response = app_client.post("/v1/classify", content=b"", headers=headers)
        assert response.json()["code"] == "empty_body"


@pytest.mark.parametrize("field", ["Content-Transfer-Encoding", "Content-Encoding"])
@pytest.mark.parametrize(("value", "status"), [("binary", 200), ("8bit", 200), ("base64", 415)])
def test_parts_that_are_encoded_by_themselves_are_refused_by_name(
    app_client, digit_pngs, field, value, status
):
    for path in ("/v1/classify", "/v1/classify/batch", "/v1/admin/datasets"):
        part = ("a.png", digit_pngs[0][0], "image/png", {field: value})
        response = app_client.post(path, files={"file": part}, headers=ADMIN)
        wanted = 422 if path.endswith("datasets") and status == 200 else status  # no archive
        assert response.status_code == wanted, response.text
        if status == 415:
            assert response.json()["code"] == "unsupported_content_encoding"
            assert "'base64'" in response.json()["detail"]
