"""POST /v1/admin/attacks: one picture attacked now."""

import base64
import io
import json

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.conftest import TOKEN

PATH = "/v1/admin/attacks"
KEY = {"Authorization": f"Bearer {TOKEN}"}


def _attack(client: httpx.Client, png: bytes, **query: object) -> httpx.Response:
    headers = KEY | {"Content-Type": "image/png"}
    return client.post(PATH, content=png, params=query, headers=headers)


def _pixels(url: str) -> np.ndarray:
    png = base64.b64decode(url.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(png)), dtype=np.float32) / 255


@pytest.mark.parametrize("attack", ["fgsm", "pgd", "apgd"])
@pytest.mark.parametrize("knowledge", ["white_box", "grey_box"])
def test_the_picture_changes_within_epsilon_and_its_answers_are_the_service_s(
    app_client, digit_pngs, attack, knowledge
):
    png, label = digit_pngs[3]
    query = {"attack": attack, "knowledge": knowledge, "epsilon": 0.3, "steps": 10, "label": label}
    told = _attack(app_client, png, **query).json()
    pictures = told["pictures"]
    change = np.abs(_pixels(pictures["adversarial"]) - _pixels(pictures["clean"]))
    assert 0.2 < change.max() <= 0.3 + 1 / 255
    assert told["distance"] <= 0.3 + 1e-5
    assert told["holds"] == (told["adversarial"]["defended"]["label"] == label)
    attacked = base64.b64decode(pictures["adversarial"].partition(",")[2])
    again = app_client.post(
        "/v1/classify", content=attacked, headers={"Content-Type": "image/png"}
    ).json()
    assert again["label"] == told["adversarial"]["defended"]["label"]
    assert again["undefended"]["label"] == told["adversarial"]["undefended"]["label"]


def test_more_change_breaks_what_none_leaves(app_client, digit_pngs):
    png, _ = digit_pngs[3]
    none = _attack(app_client, png, epsilon=0).json()
    assert none["holds"]
    assert none["distance"] == 0
    much = _attack(app_client, png, epsilon=0.5, steps=30).json()
    assert not much["holds"]
    assert much["adversarial"]["label_defended"] < none["adversarial"]["label_defended"]


def test_the_answers_along_the_way_come_as_events(app_client, digit_pngs):
    headers = KEY | {"Content-Type": "image/png", "Accept": "text/event-stream"}
    response = app_client.post(
        PATH, content=digit_pngs[3][0], params={"steps": 8, "epsilon": 0.1}, headers=headers
    )
    assert response.headers["content-type"].startswith("text/event-stream")
    names = [
        line.removeprefix("event: ") for line in response.text.splitlines() if "event:" in line
    ]
    data = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data:")]
    assert names == ["step"] * (len(names) - 1) + ["end"]
    passes = [each["passes"] for each in data[:-1]]
    assert passes == sorted(set(passes))
    assert data[-1]["along"] == data[:-1]


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ({"epsilon": "8"}, "8/255"),
        ({"epsilon": "-0.1"}, "epsilon"),
        ({"epsilon": "much"}, "epsilon"),
        ({"steps": 100_000}, "steps"),
        ({"attack": "magic"}, "attack"),
        ({"label": "eleven"}, "no label 'eleven'"),
    ],
)
def test_what_cannot_be_is_refused(app_client, digit_pngs, query, told):
    response = _attack(app_client, digit_pngs[0][0], **query)
    assert response.status_code == 422
    assert told in response.json()["detail"]


def test_it_needs_the_admin_token(app_client, digit_pngs):
    assert app_client.post(PATH, content=digit_pngs[0][0]).status_code == 401
