"""Many images in one request, and what a caller may say about time."""

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from waiting import until

from service.app import create_app

BATCH = "/v1/classify/batch"
PNG_TYPE = {"Content-Type": "image/png"}


def parts(pictures: list[bytes], content_type: str = "image/png") -> list[Any]:
    return [("file", ("picture", data, content_type)) for data in pictures]


def test_each_image_gets_the_answer_or_the_problem_that_it_gets_alone(app_client, digit_pngs):
    pictures = [data for data, _ in digit_pngs[:20]]
    pictures[3], pictures[11] = b"GIF89a nothing", pictures[11][:60]
    alone = [app_client.post("/v1/classify", files=parts([data])).json() for data in pictures]
    response = app_client.post(BATCH, files=parts(pictures))
    assert response.status_code == 200
    assert response.headers["server-timing"].count(";dur=") == 3
    outcomes = response.json()["outcomes"]
    assert len(outcomes) == len(pictures)
    for number, (outcome, solo) in enumerate(zip(outcomes, alone, strict=True)):
        if number in (3, 11):
            assert (outcome["problem"]["code"], outcome["problem"]["detail"]) == (
                solo["code"],
                solo["detail"],
            )
            assert "result" not in outcome
        else:
            assert outcome["result"]["label"] == solo["label"]
            assert outcome["result"]["confidence"] == pytest.approx(solo["confidence"], abs=1e-5)
    labels = [label for _, label in digit_pngs]
    right = [
        outcome["result"]["label"] == label
        for outcome, label in zip(outcomes, labels, strict=False)
        if "result" in outcome
    ]
    assert sum(right) > 15


def test_options_hold_for_every_image(app_client, digit_pngs):
    pictures = [data for data, _ in digit_pngs[:3]]
    url = f"{BATCH}?top_k=2&include=denoised&model=mnist"
    for outcome in app_client.post(url, files=parts(pictures)).json()["outcomes"]:
        assert len(outcome["result"]["top_k"]) == 2
        assert outcome["result"]["denoised"].startswith("data:image/png;base64,")


@pytest.mark.parametrize(
    ("request_of", "status", "code"),
    [
        (lambda data: {"files": parts([data] * 65)}, 413, "too_many_images"),
        (lambda data: {"files": [("other", ("a", data, "image/png"))]}, 422, "file_missing"),
        (lambda data: {"content": data, "headers": PNG_TYPE}, 415, "unsupported_media_type"),
        (lambda data: {"files": parts([data]), "params": {"model": "x"}}, 404, "model_unknown"),
        (lambda data: {"files": parts([data]), "params": {"top_k": 11}}, 422, "top_k_invalid"),
    ],
)
def test_what_is_wrong_with_the_whole_request_is_one_problem(
    app_client, digit_pngs, request_of, status, code
):
    response = app_client.post(BATCH, **request_of(digit_pngs[0][0]))
    assert (response.status_code, response.json()["code"]) == (status, code)


def test_a_batch_needs_a_place_for_each_image(app_settings, serve_app, digit_pngs):
    """Under the same load one image and a list of one are refused alike."""
    app = create_app(app_settings.model_copy(update={"queue_size": 4}))
    data = digit_pngs[0][0]
    with serve_app(app) as client, ThreadPoolExecutor(1) as pool:
        release, busy = threading.Event(), threading.Event()
        app.state.services.loader.thread.submit(lambda: (busy.set(), release.wait(60)))
        busy.wait(60)
        held = pool.submit(client.post, BATCH, files=parts([data] * 3))
        wait_for_value(client, "fend_inference_queue_seconds_count", 1)
        try:
            two = client.post(BATCH, files=parts([data] * 2))
        finally:
            release.set()
        assert (two.status_code, two.json()["code"]) == (429, "overloaded")
        assert int(two.headers["retry-after"]) >= 1
        assert len(held.result().json()["outcomes"]) == 3
        assert client.post(BATCH, files=parts([data] * 4)).status_code == 200
        assert client.post(BATCH, files=parts([data] * 5)).json()["code"] == "too_many_images"


def wait_for_value(client: httpx.Client, name: str, least: float) -> None:
    def reached() -> bool:
        found = re.search(rf"^{name} (\S+)$", client.get("/metrics").text, re.M)
        return found is not None and float(found[1]) >= least

    until(reached)


@pytest.mark.parametrize("given", ["0", "-1", "soon", "nan", ""])
def test_patience_that_is_no_time_is_refused(app_client, digit_pngs, given):
    headers = {**PNG_TYPE, "X-Request-Timeout": given}
    response = app_client.post("/v1/classify", content=digit_pngs[0][0], headers=headers)
    assert (response.status_code, response.json()["code"]) == (422, "timeout_invalid")


def test_a_callers_own_patience_ends_the_wait_and_drops_the_work(
    app_settings, serve_app, digit_pngs
):
    app = create_app(app_settings)
    with serve_app(app) as client:
        release, busy = threading.Event(), threading.Event()
        app.state.services.loader.thread.submit(lambda: (busy.set(), release.wait(60)))
        busy.wait(60)
        try:
            hasty = {**PNG_TYPE, "X-Request-Timeout": "0.2"}
            late = client.post("/v1/classify", content=digit_pngs[0][0], headers=hasty)
        finally:
            release.set()
        assert (late.status_code, late.json()["code"]) == (504, "deadline_exceeded")
        assert re.search(r"within 0\.[12]\d* s", late.json()["detail"])
        patient = {**PNG_TYPE, "X-Request-Timeout": "1e9"}
        answered = client.post("/v1/classify", content=digit_pngs[0][0], headers=patient)
        assert answered.status_code == 200


@pytest.mark.parametrize("route", ["/v1/classify", "/v1/denoise"])
def test_every_answer_says_where_its_time_went(app_client, digit_pngs, route):
    response = app_client.post(route, content=digit_pngs[0][0], headers=PNG_TYPE)
    timing = dict(re.findall(r"(\w+);dur=([\d.]+)", response.headers["server-timing"]))
    assert list(timing) == ["decode", "queue", "compute"]
    assert float(timing["compute"]) > 0
    total_ms = 1000 * response.elapsed.total_seconds()
    assert sum(map(float, timing.values())) <= total_ms
