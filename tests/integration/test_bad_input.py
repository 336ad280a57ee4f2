"""Every bad input has its own code, is never a 500, and the next request works."""

import io
import json
import struct
import zlib
from pathlib import Path
from shutil import copytree

import httpx
import pytest
from image_files import HEIC
from PIL import Image
from safetensors.torch import load_file, save_file

from fend.bundles import Content, Manifest, content_version, read_manifest
from service.app import create_app


def png_chunk(kind: bytes, data: bytes) -> bytes:
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def png_bomb() -> bytes:
    """30,000 x 30,000 grey pixels in some 100 kB."""
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    rows = zlib.compressobj(9)
    data = b"".join(rows.compress(bytes(30_001)) for _ in range(3_000)) + rows.flush()
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", data)
        + png_chunk(b"IEND", b"")
    )


def animation() -> bytes:
    frames = [Image.new("L", (28, 28), shade) for shade in (0, 100, 200)]
    file = io.BytesIO()
    frames[0].save(file, format="WEBP", save_all=True, append_images=frames[1:])
    return file.getvalue()


def tensor(value: object) -> bytes:
    return json.dumps({"pixels": value}).encode()


def grey(value: float, rows: int = 28, columns: int = 28) -> list[list[float]]:
    return [[value] * columns for _ in range(rows)]


def with_nan() -> list[list[float]]:
    pixels = grey(0.5)
    pixels[3][4] = float("nan")
    return pixels


GOOD = Image.new("L", (28, 28), 40)
GOOD_PNG = io.BytesIO()
GOOD.save(GOOD_PNG, format="PNG")
PNG = GOOD_PNG.getvalue()

BAD_BODIES = {
    "empty": (b"", "image/png", 422, "empty_body"),
    "truncated": (PNG[:-20], "image/png", 422, "image_truncated"),
    "no image": (b"hello, this is text", "image/png", 415, "unsupported_image_format"),
    "a jpeg that is a png": (PNG, "image/jpeg", 415, "content_type_mismatch"),
    "not an image type": (PNG, "text/plain", 415, "unsupported_media_type"),
    "heic": (HEIC, "image/heic", 415, "unsupported_media_type"),
    "bomb": (png_bomb(), "image/png", 413, "image_too_many_pixels"),
    "animation": (animation(), "image/webp", 422, "image_multi_frame"),
    "over 10 MiB": (bytes(11 * 2**20), "image/png", 413, "body_too_large"),
    "NaN": (tensor(with_nan()), "application/json", 422, "tensor_invalid"),
    "out of range": (tensor(grey(1.5)), "application/json", 422, "tensor_invalid"),
    "overflow": (tensor(grey(1e300)), "application/json", 422, "tensor_invalid"),
    "wrong shape": (tensor(grey(0.5, 27)), "application/json", 422, "tensor_invalid"),
    "ragged": (tensor([[0.0], [0.0, 0.0]]), "application/json", 422, "tensor_invalid"),
    "no pixels": (tensor([]), "application/json", 422, "tensor_invalid"),
    "strings": (tensor([["0.5"]]), "application/json", 422, "tensor_invalid"),
    "deep": (b'{"pixels":' + b"[" * 20_000, "application/json", 422, "tensor_invalid"),
    "huge tensor": (tensor(grey(0.5, 400, 400)), "application/json", 422, "tensor_invalid"),
    "no json": (b"{pixels", "application/json", 422, "tensor_invalid"),
}


def assert_problem(response: httpx.Response, status: int, code: str) -> None:
    assert response.headers["content-type"] == "application/problem+json", response.text
    problem = response.json()
    assert (response.status_code, problem["status"], problem["code"]) == (status, status, code)
    assert problem["detail"]
    assert problem["title"]
    assert problem["instance"] == response.request.url.path
    assert problem["request_id"] == response.headers["x-request-id"]


def assert_still_works(client: httpx.Client) -> None:
    response = client.post("/v1/classify", content=PNG, headers={"Content-Type": "image/png"})
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("route", ["/v1/classify", "/v1/denoise"])
@pytest.mark.parametrize("case", BAD_BODIES)
def test_a_bad_body_has_its_own_code(app_client, case, route):
    body, content_type, status, code = BAD_BODIES[case]
    headers = {"Content-Type": content_type} if content_type else {}
    assert_problem(app_client.post(route, content=body, headers=headers), status, code)
    assert_still_works(app_client)


@pytest.mark.parametrize("kind", ["", "application/octet-stream", "IMAGE/X-PNG; q=1", "image/apng"])
def test_a_type_that_is_an_alias_or_claims_nothing_is_taken_everywhere(app_client, kind):
    headers = {"Content-Type": kind} if kind else {}
    part = ("file", ("picture", PNG, kind))
    raw = {"Inference-Header-Content-Length": "0", **headers}
    answers = [
        app_client.post("/v1/classify", content=PNG, headers=headers),
        app_client.post("/v1/classify", files=[part]),
        app_client.post("/v1/denoise", content=PNG, headers=headers),
        app_client.post("/v1/classify/batch", files=[part, part]),
        app_client.post("/v2/models/mnist/infer", content=PNG, headers=raw),
    ]

    assert [answer.status_code for answer in answers] == [200] * len(answers)
    assert all(outcome["result"] for outcome in answers[3].json()["outcomes"])


@pytest.mark.parametrize("kind", ["image/jpeg", "image/X-Webp", "image/gif", "text/plain"])
def test_a_claim_of_another_format_is_refused_everywhere(app_client, kind):
    part = ("file", ("picture", PNG, kind))
    raw = app_client.post("/v1/classify", content=PNG, headers={"Content-Type": kind})
    form = app_client.post("/v1/classify", files=[part])
    batch = app_client.post("/v1/classify/batch", files=[part])

    assert (raw.status_code, form.status_code) == (415, 415)
    assert batch.json()["outcomes"][0]["problem"]["status"] == 415


def test_heic_is_told_how_to_be_sent(app_client):
    for kind in ("image/heic", "application/octet-stream", ""):
        headers = {"Content-Type": kind} if kind else {}
        raw = app_client.post("/v1/classify", content=HEIC, headers=headers)
        form = app_client.post("/v1/classify", files={"file": ("IMG_1.HEIC", HEIC, kind)})
        for response in (raw, form):
            assert response.status_code == 415
            assert "as JPEG" in response.json()["detail"]


@pytest.mark.parametrize("case", ["empty", "truncated", "no image", "bomb", "animation"])
def test_a_bad_file_in_a_form_has_the_same_code(app_client, case):
    body, content_type, status, code = BAD_BODIES[case]
    files = {"file": ("picture", body, content_type)}
    assert_problem(app_client.post("/v1/classify", files=files), status, code)
    assert_still_works(app_client)


def test_a_form_without_the_file(app_client):
    response = app_client.post("/v1/classify", files={"image": ("a.png", PNG, "image/png")})
    assert_problem(response, 422, "file_missing")
    response = app_client.post("/v1/classify", files={"file": (None, "text")})
    assert_problem(response, 422, "file_missing")


def test_a_broken_form(app_client):
    headers = {"Content-Type": "multipart/form-data"}
    assert_problem(
        app_client.post("/v1/classify", content=b"nonsense", headers=headers), 400, "bad_request"
    )
    assert_still_works(app_client)


def test_a_body_without_a_length_is_cut_off_at_the_limit(app_client):
    def chunks() -> object:
        for _ in range(11):
            yield bytes(2**20)

    headers = {"Content-Type": "image/png"}
    response = app_client.post("/v1/classify", content=chunks(), headers=headers)  # type: ignore[arg-type]
    assert_problem(response, 413, "body_too_large")
    assert_still_works(app_client)


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("model=nobody", 404, "model_unknown"),
        ("top_k=0", 422, "request_invalid"),
        ("top_k=11", 422, "top_k_invalid"),
        ("top_k=many", 422, "request_invalid"),
        ("include=everything", 422, "request_invalid"),
    ],
)
def test_a_bad_query(app_client, query, status, code):
    response = app_client.post(
        f"/v1/classify?{query}", content=PNG, headers={"Content-Type": "image/png"}
    )
    assert_problem(response, status, code)


def test_unknown_routes_methods_and_models(app_client):
    assert_problem(app_client.get("/nowhere"), 404, "not_found")
    assert_problem(app_client.get("/v1/models/nobody"), 404, "model_unknown")
    response = app_client.get("/v1/classify")
    assert_problem(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "POST"


@pytest.fixture
def broken_models(tiny_bundle_dir, tmp_path) -> Path:
    """The good bundle, and one for each way of being broken."""
    models_dir = tmp_path / "models"
    copytree(tiny_bundle_dir / "mnist", models_dir / "mnist")

    def copy(name: str) -> Path:
        folder = copytree(tiny_bundle_dir / "mnist", models_dir / name)
        write_manifest(folder, read_manifest(folder).content, name)
        return folder

    with (copy("wrong-digest") / "denoiser.safetensors").open("r+b") as file:
        file.seek(-4, io.SEEK_END)
        file.write(b"\x01\x02\x03\x04")

    (copy("no-file") / "classifier.safetensors").unlink()

    folder = copy("missing-tensor")
    state = load_file(folder / "classifier.safetensors")
    state.pop("head.1.weight")
    save_file(state, folder / "classifier.safetensors")
    rehash(folder)

    folder = copy("too-few-labels")
    content = read_manifest(folder).content
    write_manifest(folder, content.model_copy(update={"labels": ["a", "b"]}), folder.name)

    (copy("bad-manifest") / "manifest.json").write_text("{}")
    (models_dir / "no-manifest").mkdir()
    (models_dir / ".hidden").mkdir()
    return models_dir


def write_manifest(folder: Path, content: Content, name: str) -> None:
    manifest = Manifest(name=name, version=content_version(content), content=content)
    (folder / "manifest.json").write_text(manifest.model_dump_json())


def rehash(folder: Path) -> None:
    """Make the manifest say what the classifier's file is now."""
    from hashlib import sha256

    content = read_manifest(folder).content
    digest = sha256((folder / "classifier.safetensors").read_bytes()).hexdigest()
    classifier = content.classifier.model_copy(update={"sha256": digest})
    write_manifest(folder, content.model_copy(update={"classifier": classifier}), folder.name)


REFUSALS = {
    "wrong-digest": "bundle_corrupt",
    "no-file": "bundle_missing",
    "missing-tensor": "bundle_incompatible",
    "too-few-labels": "bundle_incompatible",
    "bad-manifest": "bundle_corrupt",
    "no-manifest": "bundle_missing",
}


def test_broken_bundles_are_refused_and_the_others_serve(broken_models, app_settings, serve_app):
    settings = app_settings.model_copy(update={"models_dir": broken_models})
    with serve_app(create_app(settings)) as client:
        assert client.get("/readyz").status_code == 200
        listed = {model["name"]: model for model in client.get("/v1/models").json()["models"]}
        assert set(listed) == {"mnist", *REFUSALS}
        assert listed["mnist"]["available"]
        for name, code in REFUSALS.items():
            assert not listed[name]["available"]
            assert listed[name]["refused"] == code
            response = client.post(
                f"/v1/classify?model={name}", content=PNG, headers={"Content-Type": "image/png"}
            )
            assert_problem(response, 503, code)
            assert str(broken_models) not in response.text
            assert client.get(f"/v1/models/{name}").json()["refused"] == code
        assert_still_works(client)
        metrics = client.get("/metrics").text
        assert 'fend_models_refused_total{model="no-file",reason="bundle_missing"} 1.0' in metrics
