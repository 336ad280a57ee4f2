"""The served answers: right, the same alone and in company, and fair under pressure."""

import base64
import io
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import torch
from fastapi import FastAPI
from PIL import Image
from small_bundles import save_like
from waiting import until

from fend.bundles import load_bundle
from fend.images import decode
from service.app import create_app

PNG_TYPE = {"Content-Type": "image/png"}


def test_the_answer_is_the_bundles_own(app_client, tiny_bundle_dir, digit_pngs):
    bundle = load_bundle(tiny_bundle_dir / "mnist")
    data, label = digit_pngs[3]
    pixels = decode(data, bundle.manifest.content.input).pixels
    with torch.inference_mode():
        answers = bundle.defence.answer(pixels.unsqueeze(0))
    expected = answers.logits.softmax(1)[0]

    body = app_client.post("/v1/classify?top_k=10", content=data, headers=PNG_TYPE).json()

    assert body["model"] == {"name": "mnist", "version": bundle.manifest.version}
    assert body["label"] == label
    assert body["label"] == bundle.labels[body["index"]]
    assert [row["probability"] for row in body["top_k"]] == pytest.approx(
        expected.sort(descending=True).values.tolist(), abs=1e-5
    )
    assert body["confidence"] == body["top_k"][0]["probability"]
    undefended = answers.undefended_logits.softmax(1)[0]
    assert body["undefended"]["confidence"] == pytest.approx(undefended.max().item(), abs=1e-5)
    assert body["suspicion"]["threshold"] == 0.3
    assert body["suspicion"]["flagged"] == (body["suspicion"]["score"] > 0.3)
    assert body["input"] == {
        "format": "png",
        "size_px": [28, 28],
        "resized": False,
        "inverted": False,
    }
    assert "denoised" not in body


def test_form_raw_body_and_tensor_give_the_same_answer(app_client, digit_pngs):
    data, _ = digit_pngs[5]
    image = Image.open(io.BytesIO(data))
    rows = [[image.getpixel((x, y)) / 255 for x in range(28)] for y in range(28)]
    raw = app_client.post("/v1/classify", content=data, headers=PNG_TYPE).json()
    form = app_client.post("/v1/classify", files={"file": ("5.png", data)}).json()
    grey = app_client.post("/v1/classify", json={"pixels": rows}).json()
    planes = app_client.post("/v1/classify", json={"pixels": [rows]}).json()
    assert grey["input"]["format"] == "tensor"
    for answer in (raw, form, grey, planes):
        answer.pop("input")
    assert raw == form == grey == planes


def test_a_photo_like_upload_says_what_was_done_to_it(app_client):
    image = Image.new("L", (200, 100), 250)
    image.paste(20, (90, 20, 105, 80))  # a dark stroke on paper
    file = io.BytesIO()
    image.save(file, format="JPEG")
    body = app_client.post(
        "/v1/classify", content=file.getvalue(), headers={"Content-Type": "image/jpeg"}
    ).json()
    assert body["input"] == {
        "format": "jpeg",
        "size_px": [100, 200],
        "resized": True,
        "inverted": True,
    }


def test_the_denoised_image_is_the_same_on_both_routes(app_client, digit_pngs):
    data, _ = digit_pngs[0]
    png = app_client.post("/v1/denoise", content=data, headers=PNG_TYPE)
    assert png.headers["content-type"] == "image/png"
    image = Image.open(io.BytesIO(png.content))
    assert (image.size, image.mode) == ((28, 28), "L")
    assert png.content != data
    url = app_client.post("/v1/classify?include=denoised", content=data, headers=PNG_TYPE).json()[
        "denoised"
    ]
    assert url == "data:image/png;base64," + base64.b64encode(png.content).decode()


def test_the_comparison_is_made_as_the_setting_or_the_caller_says(
    app_settings, serve_app, digit_pngs, tmp_path
):
    data, label = digit_pngs[3]
    settings = app_settings.model_copy(update={"compare": "never", "state_dir": tmp_path})

    def ask(client, query):
        return client.post(f"/v1/classify{query}", content=data, headers=PNG_TYPE).json()

    def outputs(client, *names):
        pixels = {"name": "pixels", "datatype": "FP32", "shape": [1, 1, 28, 28], "data": [0] * 784}
        wanted = [{"name": name} for name in names]
        body = {"inputs": [pixels], "outputs": wanted}
        found = client.post("/v2/models/mnist/infer", json=body).json()["outputs"]
        return [each["name"] for each in found if each["data"]]

    def compared(client):
        lines = client.get("/metrics").text.splitlines()
        counts = [line for line in lines if line.startswith("fend_suspicion_score_count")]
        return sum(float(line.split()[-1]) for line in counts)

    with serve_app(create_app(settings)) as client:
        assert outputs(client, "probabilities") == ["probabilities"]
        alone = ask(client, "")
        assert not {"undefended", "suspicion"} & set(alone)
        assert compared(client) == 0
        both = ask(client, "?compare=true")
        assert {"undefended", "suspicion"} <= set(both)
        assert alone["label"] == both["label"] == label
        assert alone["confidence"] == pytest.approx(both["confidence"], abs=1e-5)
        assert outputs(client, "suspicion", "index") == ["suspicion", "index"]
        assert len(outputs(client)) == 6
        assert compared(client) == 3
        batch = client.post("/v1/classify/batch", files=[("file", data)] * 2).json()
        assert not any("suspicion" in outcome["result"] for outcome in batch["outcomes"])
        asked = client.post("/v1/classify/batch?compare=1", files=[("file", data)] * 2).json()
        assert all("suspicion" in outcome["result"] for outcome in asked["outcomes"])


def test_a_sample_of_the_answers_is_compared(app_settings, serve_app, digit_pngs, tmp_path):
    settings = app_settings.model_copy(update={"compare": "sampled", "state_dir": tmp_path})
    files = [("file", digit_pngs[0][0])] * 64
    with serve_app(create_app(settings)) as client:
        outcomes = [
            outcome["result"]
            for _ in range(8)
            for outcome in client.post("/v1/classify/batch?top_k=1", files=files).json()["outcomes"]
        ]
    assert 1 <= sum("suspicion" in result for result in outcomes) < len(outcomes) / 4


def test_each_answer_equals_its_solo_answer_under_64_concurrent_requests(app_client, digit_pngs):
    def classify(data: bytes) -> list[float]:
        response = app_client.post("/v1/classify?top_k=10", content=data, headers=PNG_TYPE)
        body = response.json()
        by_index = sorted(body["top_k"], key=lambda row: row["index"])
        return [row["probability"] for row in by_index]

    pictures = [data for data, _ in digit_pngs]
    alone = [classify(data) for data in pictures]
    with ThreadPoolExecutor(64) as pool:
        together = list(pool.map(classify, pictures))
    assert len({tuple(answer) for answer in alone}) > 32, "the pictures must differ"
    for one, other in zip(alone, together, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


class HeldThread:
    """Keeps the inference thread of an app busy until released."""

    def __init__(self, app: FastAPI) -> None:
        self._release = threading.Event()
        busy = threading.Event()

        def hold() -> None:
            busy.set()
            self._release.wait(60)

        app.state.services.loader.thread.submit(hold)
        busy.wait(60)

    def release(self) -> None:
        self._release.set()


def metric(client: httpx.Client, name: str) -> float:
    [line] = [line for line in client.get("/metrics").text.splitlines() if line.startswith(name)]
    return float(line.split()[1])


def waiting(client: httpx.Client) -> int:
    """How many images wait for the model."""
    return int(metric(client, "fend_queue_depth"))


def occupy(pool: ThreadPoolExecutor, client: httpx.Client, bodies: list[bytes]) -> list[Any]:
    """Send all `bodies`: the first is with the held model, the others wait behind it."""

    def send(body: bytes) -> Any:
        return pool.submit(client.post, "/v1/classify", content=body, headers=PNG_TYPE)

    sent = [send(bodies[0])]
    until(lambda: metric(client, "fend_inference_queue_seconds_count") == 1)
    sent += [send(body) for body in bodies[1:]]
    until(lambda: waiting(client) == len(bodies) - 1)
    return sent


def test_overload_is_refused_with_retry_after_and_passes(app_settings, serve_app, digit_pngs):
    app = create_app(app_settings.model_copy(update={"queue_size": 4}))
    data, _ = digit_pngs[0]
    with serve_app(app) as client, ThreadPoolExecutor(5) as pool:
        held = HeldThread(app)
        try:
            accepted = occupy(pool, client, [data] * 4)
            refused = client.post("/v1/classify", content=data, headers=PNG_TYPE)
        finally:
            held.release()
        assert refused.status_code == 429
        assert refused.json()["code"] == "overloaded"
        assert int(refused.headers["retry-after"]) >= 1
        assert [future.result().status_code for future in accepted] == [200] * 4
        assert client.post("/v1/classify", content=data, headers=PNG_TYPE).status_code == 200
        assert (
            'fend_requests_rejected_total{reason="overloaded"} 1.0' in client.get("/metrics").text
        )


def test_a_late_answer_is_a_504_and_its_work_is_dropped(app_settings, serve_app, digit_pngs):
    app = create_app(app_settings.model_copy(update={"request_timeout_s": 0.3}))
    data, _ = digit_pngs[0]
    with serve_app(app) as client, ThreadPoolExecutor(3) as pool:
        held = HeldThread(app)
        try:
            late = list(
                pool.map(
                    lambda _: client.post("/v1/classify", content=data, headers=PNG_TYPE), range(3)
                )
            )
        finally:
            held.release()
        assert {response.status_code for response in late} == {504}
        assert {response.json()["code"] for response in late} == {"deadline_exceeded"}
        until(lambda: waiting(client) == 0)
        counts = re.findall(r"fend_predictions_total\{.*\} (.*)", client.get("/metrics").text)
        assert counts
        assert set(counts) == {"0.0"}
        answers = [
            client.post("/v1/classify", content=data, headers=PNG_TYPE).status_code
            for _ in range(2)
        ]
        assert answers == [200, 200]


def test_a_caller_who_leaves_is_dropped_and_the_others_are_answered(
    app_settings, serve_app, digit_pngs
):
    app = create_app(app_settings)
    with serve_app(app) as client, ThreadPoolExecutor(8) as pool:
        held = HeldThread(app)
        try:
            kept = occupy(pool, client, [data for data, _ in digit_pngs[:4]])
            leaver = httpx.Client(base_url=client.base_url, timeout=0.5)
            with leaver, pytest.raises(httpx.ReadTimeout):
                leaver.post("/v1/classify", content=digit_pngs[9][0], headers=PNG_TYPE)
            until(lambda: 'reason="client_gone"} 1.0' in client.get("/metrics").text)
        finally:
            held.release()
        answers = [future.result().json() for future in kept]
        assert [answer["label"] for answer in answers] == [label for _, label in digit_pngs[:4]]
        metrics = client.get("/metrics").text
        assert "fend_batch_size_sum 4.0" in metrics, "the caller who left was computed for"


def test_a_model_that_computes_nan_answers_with_a_problem_and_is_not_ready(
    app_settings, serve_app, digit_pngs
):
    # On torch, which computes with the weights that are changed here.
    app = create_app(app_settings.model_copy(update={"engine": "torch"}))
    with serve_app(app) as client:
        model = app.state.services.repository.get(None)
        with torch.no_grad():
            model.bundle.defence.classifier.head[-1].bias.fill_(float("nan"))
        response = client.post("/v1/classify", content=digit_pngs[0][0], headers=PNG_TYPE)
        assert response.json()["code"] == "answer_not_finite"
        until(lambda: client.get("/readyz").status_code == 503)
        assert client.get("/readyz").json()["code"] == "not_ready"
        assert client.get("/livez").status_code == 200


def test_the_only_model_answers_who_names_none(
    serve_app, app_settings, tiny_bundle_dir, tmp_path, digit_pngs
):
    save_like(tiny_bundle_dir / "mnist", tmp_path / "models" / "mine")
    folders = {"models_dir": tmp_path / "models", "state_dir": tmp_path / "state"}
    data, label = digit_pngs[3]

    with serve_app(create_app(app_settings.model_copy(update=folders))) as client:
        answer = client.post("/v1/classify", content=data, headers=PNG_TYPE).json()
        [model] = client.get("/v1/models").json()["models"]

    assert (answer["model"]["name"], answer["label"]) == ("mine", label)
    assert model["default"]
