"""The Open Inference Protocol as tritonclient speaks it, against a real server."""

import base64
import io
import json
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from PIL import Image
from tritonclient.utils import InferenceServerException

from service.app import create_app

ROOT = Path(__file__).parents[2]
INFER = "/v2/models/mnist/infer"
HEADER = "Inference-Header-Content-Length"


@dataclass(frozen=True)
class Service:
    """A running service, as httpx and as tritonclient see it."""

    http: httpx.Client
    triton: triton.InferenceServerClient
    token: str


@pytest.fixture(scope="module")
def service(run_server, tiny_bundle_dir, tmp_path_factory) -> Iterator[Service]:
    settings = {"max_body_bytes": 300_000, "max_pixels": 1_000_000, "max_request_images": 16}
    with (
        run_server(tiny_bundle_dir, tmp_path_factory.mktemp("oip"), **settings) as server,
        httpx.Client(base_url=server.base_url, timeout=30) as http,
        triton.InferenceServerClient(server.base_url.removeprefix("http://")) as client,
    ):
        yield Service(http, client, server.token)


def classified(service: Service, png: bytes) -> dict[str, Any]:
    """What /v1/classify says."""
    response = service.http.post(
        "/v1/classify?top_k=10", content=png, headers={"Content-Type": "image/png"}
    )
    assert response.status_code == 200, response.text
    return response.json()


def probabilities(answer: dict[str, Any]) -> list[float]:
    """Those of an answer of /v1/classify, by class."""
    ranked = sorted(answer["top_k"], key=lambda entry: entry["index"])
    return [entry["probability"] for entry in ranked]


def images(pngs: list[bytes], binary: bool) -> triton.InferInput:
    """An input of encoded images."""
    sent = triton.InferInput("image", [len(pngs)], "BYTES")
    elements = pngs if binary else [base64.b64encode(png) for png in pngs]
    sent.set_data_from_numpy(np.array(elements, dtype=np.object_), binary_data=binary)
    return sent


def pixels(pngs: list[bytes], binary: bool) -> triton.InferInput:
    """The same images as numbers."""
    arrays = [_grey(png)[None] for png in pngs]
    values = (np.stack(arrays) / np.float32(255)).astype(np.float32)
    sent = triton.InferInput("pixels", list(values.shape), "FP32")
    sent.set_data_from_numpy(values, binary_data=binary)
    return sent


@pytest.mark.parametrize(
    ("datatype", "binary", "atol"),
    [("UINT8", True, 2e-6), ("UINT8", False, 2e-6), ("FP16", True, 0.01)],
)
def test_pixels_may_be_bytes_or_halves(service, digit_pngs, datatype, binary, atol):
    pngs = [png for png, _ in digit_pngs[:3]]
    values = np.stack([_grey(png)[None] for png in pngs])
    values = values.astype(np.uint8) if datatype == "UINT8" else (values / 255).astype(np.float16)
    sent = triton.InferInput("pixels", list(values.shape), datatype)
    sent.set_data_from_numpy(values, binary_data=binary)
    result = service.triton.infer("mnist", [sent])
    expected = [probabilities(classified(service, png)) for png in pngs]
    np.testing.assert_allclose(result.as_numpy("probabilities"), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_tritonclient_may_compress(service, digit_pngs, algorithm):
    sent, png = images([digit_pngs[0][0]], True), digit_pngs[0][0]
    result = service.triton.infer("mnist", [sent], request_compression_algorithm=algorithm)
    assert [label.decode() for label in result.as_numpy("label")] == [
        classified(service, png)["label"]
    ]


def spelt(png: bytes) -> dict[str, str]:
    """Base64 as encoders write it."""
    plain, lines = base64.b64encode(png).decode(), base64.encodebytes(png).decode()
    return {
        "plain": plain,
        "LF": lines,
        "CRLF": lines.replace("\n", "\r\n"),
        "one LF at the end": plain + "\n",
        "indented": lines.replace("\n", "\n    "),
        "data URL": f"data:image/png;base64,{plain}",
        "data URL with parameters": f"Data:image/png;name=a.png;BASE64,{lines}",
        "data URL without a type": f"data:;base64,{plain.replace('+', '%2B').replace('=', '%3D')}",
        "URL-safe": base64.urlsafe_b64encode(png).decode(),
        "unpadded": plain.rstrip("="),
        "URL-safe, unpadded": base64.urlsafe_b64encode(png).decode().rstrip("="),
    }


@pytest.mark.parametrize("how", spelt(b""))
@pytest.mark.parametrize("extra", [0, 1, 2])  # each remainder of the length by three
def test_base64_is_taken_as_encoders_write_it(service, digit_pngs, how, extra):
    png, label = digit_pngs[0]
    while len(png) % 3 != extra:
        png += b"\0"  # behind the image
    response = service.http.post(INFER, json=one(IMAGE, data=[spelt(png)[how]]))
    assert response.status_code == 200, response.text
    assert response.json()["outputs"][0]["data"] == [label]


@pytest.mark.parametrize(
    "text",
    ["%%%%", "aGVsbG8==", "aGVsb", "aGVsbG9", "-_+/", "aGVs=bG8=", "data:image/png,aGVsbG8=",
     "data:image/png;base64", "=", "data:image/png;base64,%%%%"],
)  # fmt: skip
def test_what_is_no_base64_is_refused(service: Service, text: str) -> None:
    refused(service.http.post(INFER, json=one(IMAGE, data=[text])), 400, "its file in base64")


def test_shared_memory_is_refused_for_inputs_and_outputs(service, digit_pngs):
    said = []
    for shared in ("input", "output"):
        sent, wanted = images([digit_pngs[0][0]], True), triton.InferRequestedOutput("label")
        (sent if shared == "input" else wanted).set_shared_memory("region", 100)
        with pytest.raises(InferenceServerException, match="no shared memory") as refusal:
            service.triton.infer("mnist", [sent], outputs=[wanted])
        said.append(str(refusal.value))
    assert said[0] == said[1]
    assert said[0].startswith("[400]")


def _grey(png: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(png)), dtype=np.float32)


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("make", [images, pixels])
@pytest.mark.parametrize("count", [1, 5])
def test_tritonclient_gets_what_classify_answers(service, digit_pngs, make, binary, count):
    pngs = [png for png, _ in digit_pngs[:count]]
    wanted = [
        triton.InferRequestedOutput(name, binary_data=binary)
        for name in ("label", "index", "probabilities", "suspicion", "undefended_probabilities")
    ]
    result = service.triton.infer("mnist", [make(pngs, binary)], outputs=wanted, request_id="7")
    expected = [classified(service, png) for png in pngs]

    response = result.get_response()
    assert response["id"] == "7"
    assert response["model_name"] == "mnist"
    assert response["model_version"] == expected[0]["model"]["version"]
    labels = [
        label.decode() if isinstance(label, bytes) else label for label in result.as_numpy("label")
    ]
    assert labels == [answer["label"] for answer in expected]
    assert result.as_numpy("index").tolist() == [answer["index"] for answer in expected]
    assert result.as_numpy("index").dtype == np.int64
    # Equal but for the rounding of another batch size.
    close = {"rtol": 0, "atol": 2e-6}
    np.testing.assert_allclose(
        result.as_numpy("probabilities"), [probabilities(answer) for answer in expected], **close
    )
    np.testing.assert_allclose(
        result.as_numpy("suspicion"), [answer["suspicion"]["score"] for answer in expected], **close
    )
    plain = result.as_numpy("undefended_probabilities")
    assert plain.shape == (count, 10)
    for row, answer in zip(plain, expected, strict=True):
        assert row[answer["undefended"]["index"]] == pytest.approx(
            answer["undefended"]["confidence"], abs=2e-6
        )


@pytest.mark.parametrize("binary", [True, False])
def test_classification_gives_value_index_and_label(service, digit_pngs, binary):
    pngs = [png for png, _ in digit_pngs[:3]]
    wanted = triton.InferRequestedOutput("probabilities", binary_data=binary, class_count=3)
    result = service.triton.infer("mnist", [images(pngs, True)], outputs=[wanted])
    rows = result.as_numpy("probabilities")
    assert rows.shape == (3, 3)
    for row, png in zip(rows, pngs, strict=True):
        for element, entry in zip(row, classified(service, png)["top_k"], strict=False):
            text = element.decode() if isinstance(element, bytes) else element
            value, index, label = text.split(":", 2)
            assert (int(index), label) == (entry["index"], entry["label"])
            assert float(value) == pytest.approx(entry["probability"], abs=2e-6)


def test_without_outputs_all_are_sent(service, digit_pngs):
    result = service.triton.infer("mnist", [images([digit_pngs[0][0]], True)])
    names = [output["name"] for output in result.get_response()["outputs"]]
    metadata = service.triton.get_model_metadata("mnist")
    assert names == [output["name"] for output in metadata["outputs"]]
    for output in metadata["outputs"]:
        shape = [1 if length == -1 else length for length in output["shape"]]
        assert list(result.as_numpy(output["name"]).shape) == shape
    cleaned = result.as_numpy("denoised")
    assert cleaned.min() >= 0
    assert cleaned.max() <= 1


def test_the_cleaned_image_is_that_of_denoise(service, digit_pngs):
    png = digit_pngs[0][0]
    wanted = [triton.InferRequestedOutput("denoised")]
    result = service.triton.infer("mnist", [images([png], True)], outputs=wanted)
    as_png = service.http.post("/v1/denoise", content=png, headers={"Content-Type": "image/png"})
    np.testing.assert_allclose(
        255 * result.as_numpy("denoised")[0, 0], _grey(as_png.content), rtol=0, atol=0.51
    )


def test_ready_live_and_metadata(service: Service) -> None:
    client = service.triton
    version = service.http.get("/v1/models/mnist").json()["version"]
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("mnist")
    assert client.is_model_ready("mnist", version)
    assert not client.is_model_ready("mnist", "1")
    assert not client.is_model_ready("nothing")
    server = client.get_server_metadata()
    assert server["name"] == "fend"
    assert {"binary_tensor_data", "classification"} <= set(server["extensions"])
    metadata = client.get_model_metadata("mnist", version)
    assert metadata["versions"] == [version]
    assert metadata["inputs"] == [
        {"name": "image", "datatype": "BYTES", "shape": [-1]},
        {
            "name": "pixels",
            "datatype": "FP32",
            "shape": [-1, 1, 28, 28],
            "parameters": {
                "UINT8": "0 to 255; divided by 255 here",
                "FP16": "as FP32, but as binary data alone",
            },
        },
    ]
    assert service.http.get("/v2/health/live").json() == {"live": True}
    assert service.http.get("/v2/health/ready").json() == {"ready": True}
    assert service.http.get("/v2/models/mnist/ready").json() == {"name": "mnist", "ready": True}
    [entry] = client.get_model_repository_index()
    assert entry == {"name": "mnist", "version": version, "state": "READY", "reason": ""}


def test_a_version_is_answered_by_that_version_or_not_at_all(service, digit_pngs):
    version = service.http.get("/v1/models/mnist").json()["version"]
    sent = [images([digit_pngs[0][0]], True)]
    result = service.triton.infer("mnist", sent, model_version=version)
    assert result.get_response()["model_version"] == version
    with pytest.raises(InferenceServerException, match="has no version '1'"):
        service.triton.infer("mnist", sent, model_version="1")


@pytest.mark.parametrize("sent_as", ["application/octet-stream", "image/png"])
def test_a_body_that_is_one_image(service, digit_pngs, sent_as):
    png = digit_pngs[0][0]
    response = service.http.post(INFER, content=png, headers={HEADER: "0", "Content-Type": sent_as})
    assert response.status_code == 200, response.text
    outputs = {output["name"]: output["data"] for output in response.json()["outputs"]}
    expected = classified(service, png)
    assert outputs["label"] == [expected["label"]]
    assert outputs["probabilities"] == probabilities(expected)  # the same numbers, to the last bit


def test_nested_data_is_as_good_as_flat(service: Service) -> None:
    flat = [index / 784 for index in range(784)]
    nested = [[[flat[28 * row : 28 * row + 28] for row in range(28)]]]
    answers = []
    for data in (flat, nested):
        sent = {"name": "pixels", "datatype": "FP32", "shape": [1, 1, 28, 28], "data": data}
        response = service.http.post(INFER, json={"inputs": [sent]})
        assert response.status_code == 200, response.text
        answers.append(response.json())
    assert answers[0] == answers[1]


# --- What is wrong with a request, as its sender reads it.

PIXELS = {"name": "pixels", "datatype": "FP32", "shape": [1, 1, 28, 28], "data": [0.5] * 784}
IMAGE = {"name": "image", "datatype": "BYTES", "shape": [1], "data": ["aGVsbG8="]}


def one(input_: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A request with one input, some of its fields changed; None takes a field away."""
    changed = {name: value for name, value in (input_ | changes).items() if value is not None}
    return {"inputs": [changed]}


def wants(**output: Any) -> dict[str, Any]:
    """A good input and one requested output."""
    return {"inputs": [PIXELS], "outputs": [output]}


MALFORMED: list[tuple[Any, int, str]] = [
    ([], 400, "Input should be an object"),
    ({}, 400, "inputs: Field required"),
    ({"inputs": []}, 400, "at least 1"),
    ({"inputs": "x"}, 400, "inputs: Input should be a valid array"),
    ({"inputs": [PIXELS, IMAGE]}, 400, "2 inputs were sent"),
    (one(PIXELS, name="input0"), 400, "no input is called 'input0'"),
    (one(PIXELS, name="image"), 400, "the datatype of image is 'FP32'"),
    (one(PIXELS, datatype="FP64"), 400, "the datatype of pixels is 'FP64'"),
    (one(PIXELS, datatype="NONSENSE"), 400, "the datatype of pixels is 'NONSENSE'"),
    (one(PIXELS, datatype=7), 400, "datatype"),
    (one(PIXELS, shape=[]), 400, "shape"),
    (one(PIXELS, shape=[-1, 1, 28, 28]), 400, "greater than or equal to 1"),
    (one(PIXELS, shape=[0, 1, 28, 28]), 400, "greater than or equal to 1"),
    (one(PIXELS, shape=[1.5, 1, 28, 28]), 400, "shape"),
    (one(PIXELS, shape=[True, 1, 28, 28]), 400, "shape"),
    (one(PIXELS, shape=[1, 28, 28]), 400, "the shape of pixels is [1, 28, 28]"),
    (one(PIXELS, shape=[1, 3, 28, 28]), 400, "the shape of pixels"),
    (one(PIXELS, shape=[1, 1, 2**62, 2**62]), 400, "the shape of pixels"),
    (one(PIXELS, shape=[2**62, 1, 28, 28]), 413, "may hold 16 images"),
    (one(PIXELS, shape=[10**30, 1, 28, 28]), 413, "may hold 16 images"),
    (one(PIXELS, shape=[17, 1, 28, 28]), 413, "may hold 16 images"),
    (one(PIXELS, shape=[1] * 9), 400, "shape"),
    (one(PIXELS, shape=[2, 1, 28, 28]), 400, "784 elements, and the shape"),
    (one(PIXELS, data=[0.5] * 783), 400, "783 elements"),
    (one(PIXELS, datatype="UINT8", data=[0.5] * 784), 400, "something else than UINT8"),
    (one(PIXELS, datatype="UINT8", data=[256] * 784), 400, "0 to 255"),
    (one(PIXELS, datatype="UINT8", data=[-1] * 784), 400, "0 to 255"),
    (one(PIXELS, datatype="UINT8", data=[10**400] + [1] * 783), 400, "0 to 255"),
    (one(PIXELS, datatype="UINT8", data=[True] * 784), 400, "something else than UINT8"),
    (one(PIXELS, datatype="FP16", data=[0.5] * 784), 400, "no form in JSON"),
    (one(PIXELS, parameters={"shared_memory_offset": 1}), 400, "no shared memory"),
    (wants(name="label", parameters={"shared_memory_region": "a"}), 400, "no shared memory"),
    (one(PIXELS, data=[]), 400, "0 elements"),
    (one(PIXELS, data=["0.5"] * 784), 400, "something else than FP32"),
    (one(PIXELS, data=[True] * 784), 400, "something else than FP32"),
    (one(PIXELS, data=[[0.5]] * 783 + [0.5]), 400, "something else than FP32"),
    (one(PIXELS, data={"0": 1}), 400, "data: Input should be a valid array"),
    (one(PIXELS, data=None), 400, "must be in `data`"),
    (one(PIXELS, parameters={"binary_data_size": 3136}), 400, "must be in `data`"),
    (one(PIXELS, data=None, parameters={"binary_data_size": 3136}), 400, "0 bytes follow"),
    (one(PIXELS, data=None, parameters={"binary_data_size": -1}), 400, "binary_data_size"),
    (one(PIXELS, data=[1.01] + [0.5] * 783), 422, "the pixels go from"),
    (one(PIXELS, data=[-0.01] + [0.5] * 783), 422, "the pixels go from"),
    (one(PIXELS, data=[10**400] + [0.5] * 783), 400, "too large for FP32"),
    (one(IMAGE, data=["not base64!"]), 400, "base64"),
    (one(IMAGE, data=["ä"]), 400, "base64"),
    (one(IMAGE, data=[1]), 400, "something else than BYTES"),
    (one(IMAGE, data=[]), 400, "0 elements"),
    (one(IMAGE, shape=[2]), 400, "1 elements"),
    (one(IMAGE, shape=[1, 2]), 400, "the shape of image"),
    (one(IMAGE), 415, "no PNG, JPEG, WebP or BMP"),
    (one(IMAGE, data=[""]), 422, "no image"),
    (wants(name="logits"), 400, "no output is called 'logits'"),
    ({"inputs": [PIXELS], "outputs": [{"name": "label"}] * 2}, 400, "twice"),
    (wants(name="probabilities", parameters={"classification": 0}), 400, "classification"),
    (wants(name="probabilities", parameters={"classification": 11}), 422, "has 10 labels"),
    (wants(name="label", parameters={"classification": 1}), 400, "cannot be sent as a class"),
    (wants(name="label", parameters={"binary_data": "yes"}), 400, "binary_data"),
    (wants(name=None), 400, "name"),
]


@pytest.mark.parametrize(
    ("body", "status", "text"), MALFORMED, ids=[str(number) for number in range(len(MALFORMED))]
)
def test_a_malformed_request_is_told_what_is_wrong(service, body, status, text):
    refused(service.http.post(INFER, json=body), status, text)


def refused(response: httpx.Response, status: int, text: str) -> None:
    assert response.status_code == status, response.text
    assert list(response.json()) == ["error"]
    assert text in response.json()["error"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_json_that_is_no_number_is_refused(service: Service, number: str) -> None:
    body = json.dumps({"inputs": [PIXELS]}).replace("0.5", number, 1)
    response = service.http.post(INFER, content=body)
    assert response.status_code in (400, 422), response.text
    assert "error" in response.json()


def framed(sent: dict[str, Any], binary: bytes, **changes: str) -> dict[str, Any]:
    """The arguments of a post with binary data."""
    header = json.dumps({"inputs": [sent]}).encode()
    return {"content": header + binary, "headers": {HEADER: str(len(header))} | changes}


def sized(input_: dict[str, Any], size: int) -> dict[str, Any]:
    kept = {name: value for name, value in input_.items() if name != "data"}
    return kept | {"parameters": {"binary_data_size": size}}


HALF = struct.pack("<f", 0.5)


@pytest.mark.parametrize(
    ("post", "status", "text"),
    [
        (framed(sized(PIXELS, 3136), HALF * 783), 400, "3132 bytes follow the JSON"),
        (framed(sized(PIXELS, 3136), HALF * 785), 400, "3140 bytes follow the JSON"),
        (framed(sized(PIXELS, 3132), HALF * 783), 400, "take 3136 bytes, and 3132"),
        (framed(PIXELS, HALF), 400, "4 bytes follow the JSON"),
        (framed(sized(PIXELS, 3136), struct.pack("<f", float("nan")) + HALF * 783), 422, "NaN"),
        (framed(sized(PIXELS, 3136), struct.pack("<f", float("inf")) + HALF * 783), 422, "infin"),
        (framed(sized(PIXELS, 3136), struct.pack("<f", -1) + HALF * 783), 422, "go from -1"),
        (framed(sized(IMAGE, 3), b"abc"), 400, "the bytes end before element 0 of 1"),
        (framed(sized(IMAGE, 7), b"\x04\0\0\0abc"), 400, "should have 4 bytes, and 3 are left"),
        (framed(sized(IMAGE, 8), b"\xff\xff\xff\xffabcd"), 400, "should have 4294967295 bytes"),
        (framed(sized(IMAGE, 8), b"\x03\0\0\0abcd"), 400, "1 bytes are left after the last"),
        (framed(sized(IMAGE, 4), b"\0\0\0\0"), 422, "no image"),
        (framed(PIXELS, b"", **{HEADER: "99999999"}), 400, "and the body has"),
        (framed(PIXELS, b"", **{HEADER: "-1"}), 400, "send the number of bytes"),
        (framed(PIXELS, b"", **{HEADER: "ten"}), 400, "send the number of bytes"),
        (framed(PIXELS, b"", **{HEADER: "9" * 5000}), 400, "send the number of bytes"),
        (framed(PIXELS, b"", **{HEADER: "10"}), 400, "JSON"),
        (framed(PIXELS, b"", **{"Content-Encoding": "br"}), 415, "Content-Encoding"),
        (framed(PIXELS, b"", **{"X-Request-Timeout": "soon"}), 422, "X-Request-Timeout"),
        ({"content": b"", "headers": {HEADER: "0"}}, 422, "no image"),
        ({"content": b""}, 400, "JSON"),
        ({"content": b"[" * 10_000}, 400, "JSON"),
        ({"content": b"\xff\xfe"}, 400, "JSON"),
        ({"content": b"x" * 300_001}, 413, "more than 300000 bytes"),
    ],
)
def test_a_malformed_body_is_told_what_is_wrong(service, post, status, text):
    refused(service.http.post(INFER, **post), status, text)


def test_a_bad_image_among_good_ones_is_named(service, digit_pngs):
    good = digit_pngs[0][0]
    with pytest.raises(InferenceServerException, match=r"image 1, counted from 0: .* no PNG"):
        service.triton.infer("mnist", [images([good, b"hello", good], True)])


def test_too_many_pixels_are_refused_before_decoding(service: Service) -> None:
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    chunk = b"IHDR" + header
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk
    bomb += struct.pack(">I", zlib.crc32(chunk))
    refused(service.http.post(INFER, content=bomb, headers={HEADER: "0"}), 413, "at most 1000000")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v2/models/nothing/infer", 404),
        ("GET", "/v2/models/nothing", 404),
        ("GET", "/v2/models/nothing/ready", 404),
        ("GET", "/v2/models/mnist/versions/1", 404),
        ("GET", "/v2/models/mnist/versions/1/ready", 404),
        ("GET", "/v2/nothing", 404),
        ("GET", INFER, 405),
    ],
)
def test_errors_have_the_form_of_the_protocol(service, method, path, status):
    response = service.http.request(method, path)
    assert response.status_code == status
    assert list(response.json()) == ["error"]
    assert response.headers["x-request-id"]


def test_the_repository_index_can_be_asked_for_what_is_ready(service: Service) -> None:
    assert service.http.post("/v2/repository/index", json={"ready": True}).json()
    refused(service.http.post("/v2/repository/index", json={"ready": "x"}), 422, "ready")


def test_tritonclient_unloads_and_loads_a_model(run_server, tiny_bundle_dir, tmp_path, digit_pngs):
    sent = [images([digit_pngs[0][0]], True)]
    with (
        run_server(tiny_bundle_dir, tmp_path) as server,
        triton.InferenceServerClient(server.base_url.removeprefix("http://")) as client,
    ):
        key = {"Authorization": f"Bearer {server.token}"}
        assert "model_repository" in client.get_server_metadata()["extensions"]
        for change in (client.load_model, client.unload_model):
            with pytest.raises(InferenceServerException, match="admin token"):
                change("mnist")
            with pytest.raises(InferenceServerException, match="no model 'nothing'"):
                change("nothing", headers=key)
        client.load_model("mnist", headers=key)  # it serves already: nothing changes
        [before] = client.get_model_repository_index()
        client.unload_model("mnist", headers=key)
        [unloaded] = client.get_model_repository_index()
        assert unloaded == {
            "name": "mnist", "version": "", "state": "UNAVAILABLE", "reason": "model_unloaded"
        }  # fmt: skip
        assert not client.is_model_ready("mnist")
        assert not client.is_server_ready()
        with pytest.raises(InferenceServerException, match="unloaded"):
            client.infer("mnist", sent)
        with pytest.raises(InferenceServerException, match="load takes no config"):
            client.load_model("mnist", headers=key, config="{}")
        client.load_model("mnist", headers=key)
        assert client.is_server_ready()
        assert client.infer("mnist", sent).get_response()["model_version"] == before["version"]
        assert client.get_model_repository_index() == [before]
        for body in (b"\xff", b"[]", b'{"parameters": 1}'):
            for change in ("load", "unload"):
                path = f"{server.base_url}/v2/repository/models/mnist/{change}"
                refused(httpx.post(path, content=body, headers=key), 400, "")


def test_every_image_takes_a_place_in_the_queue(app_settings, tmp_path, serve_app, digit_pngs):
    update = {"state_dir": tmp_path, "queue_size": 4}
    app = create_app(app_settings.model_copy(update=update))
    with serve_app(app) as http:
        address = f"{http.base_url.host}:{http.base_url.port}"
        with triton.InferenceServerClient(address) as client:
            one, two = ([images([digit_pngs[0][0]] * count, True)] for count in (1, 2))
            client.infer("mnist", two)
            with app.state.services.repository.get(None).batcher.admission(3):
                client.infer("mnist", one)
                with pytest.raises(InferenceServerException, match="all the work it can take"):
                    client.infer("mnist", two)
                body = {"inputs": [PIXELS | {"shape": [2, 1, 28, 28], "data": [0.5] * 1568}]}
                refusal = http.post(INFER, json=body)
                assert refusal.status_code == 429
                assert int(refusal.headers["Retry-After"]) >= 1
            client.infer("mnist", two)  # every place was given back


def test_a_deadline_that_has_passed_is_a_504(service: Service) -> None:
    response = service.http.post(
        INFER, json={"inputs": [PIXELS]}, headers={"X-Request-Timeout": "0.000001"}
    )
    refused(response, 504, "no answer within")


@pytest.mark.skipif(sys.platform != "linux", reason="needs curl and bash")
def test_the_lines_of_the_page_work(service: Service, tmp_path: Path) -> None:
    page = (ROOT / "docs/open-inference-protocol.md").read_text()
    page = page.replace("127.0.0.1:8000", f"127.0.0.1:{service.http.base_url.port}")
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    *shell, install = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    assert install.startswith("pip install")
    program = "".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    program = f"TOKEN = {service.token!r}\n{program}"
    said = []
    for command in (
        ["bash", "-euo", "pipefail", "-c", "".join(shell)],
        [sys.executable, "-c", program],
    ):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    curl, python = said
    assert '"id":"my-request"' in curl
    assert re.search(r'"shape":\[2,3\],"data":\["[\d.]+:\d:\d"', curl)
    assert re.match(r"\d{10}\n", python)
    assert "'state': 'UNAVAILABLE', 'reason': 'model_unloaded'" in python
