"""Odd and hostile images, sent to a real server: what is valid is answered like the plain PNG, what
is not is refused in words, and neither costs the process anything that lasts."""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import image_corpus
import numpy as np
import pytest
from PIL import Image

API_DOCS = Path(__file__).parents[2] / "docs" / "api.md"
WHAT_TO_DO = re.compile(r"\b(send|save|scale|correct)\b", re.IGNORECASE)


@pytest.fixture(scope="module")
def server(run_server, tiny_bundle_dir, tmp_path_factory) -> Iterator[Any]:
    with run_server(tiny_bundle_dir, tmp_path_factory.mktemp("state")) as running:
        yield running


@pytest.fixture(scope="module")
def client(server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.base_url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def documented(client) -> set[int]:
    """The statuses that the API's document names for the route."""
    route = client.get("/openapi.json").json()["paths"]["/v1/classify"]["post"]
    return {int(status) for status in route["responses"]}


@pytest.fixture(scope="module")
def digit(digit_pngs, client) -> np.ndarray:
    """The digit that the model is surest of: what a lossy format changes must not matter."""
    sure = max(
        (classify(client, data, "png").json()["confidence"], number)
        for number, (data, _) in enumerate(digit_pngs)
    )
    return np.asarray(Image.open(io.BytesIO(digit_pngs[sure[1]][0])))


def classify(client: httpx.Client, data: bytes, kind: str) -> httpx.Response:
    headers = {"Content-Type": f"image/{kind}"}
    return client.post("/v1/classify", content=data, headers=headers)


def assert_refused(response: httpx.Response, documented: set[int], case: str) -> dict[str, Any]:
    """A documented refusal that says what to do; gives the problem."""
    assert response.status_code in documented - {200}, (case, response.text)
    assert response.headers["content-type"] == "application/problem+json", case
    problem: dict[str, Any] = response.json()
    assert problem["status"] == response.status_code < 500, (case, problem)
    assert f"`{problem['code']}`" in API_DOCS.read_text(), (case, problem)
    assert WHAT_TO_DO.search(problem["detail"]), (case, problem)
    return problem


def test_a_digit_gets_its_label_however_it_is_written(client, digit):
    plain = classify(client, image_corpus.saved(Image.fromarray(digit), "PNG"), "png").json()
    wrong = {}
    for name, data in image_corpus.valid_files(digit):
        kind = re.match(r"\w+", name)[0]  # type: ignore[index]
        response = classify(client, data, kind)
        answer = response.json()
        if response.status_code != 200 or answer["label"] != plain["label"]:
            wrong[name] = answer
            continue
        assert answer["input"]["format"] == kind, name
        assert answer["input"]["size_px"] in ([28, 28], [112, 112]), name
    assert not wrong


def test_exact_ways_of_writing_give_the_exact_answer(client, digit):
    """No bit is lost where the format can hold all eight."""
    plain = classify(client, image_corpus.saved(Image.fromarray(digit), "PNG"), "png").json()
    exact = {
        name: data
        for name, data in image_corpus.valid_files(digit)
        if re.fullmatch(
            r"png (L|LA|RGB|RGBA|I;16|interlaced.*)|png, (16-bit|bomb|a negative|gamma|rubbish).*"
            r"|bmp (L|P|RGB|RGBA|from.*|and script)",
            name,
        )
    }
    assert len(exact) > 20
    for name, data in exact.items():
        answer = classify(client, data, name[:3]).json()
        for key in ("label", "confidence", "top_k", "undefended", "suspicion"):
            assert answer[key] == plain[key], (name, key)


def test_odd_sizes_are_answered(client):
    for name, data in image_corpus.odd_sizes():
        response = classify(client, data, re.match(r"\w+", name)[0])  # type: ignore[index]
        assert response.status_code == 200, (name, response.text)


def test_what_is_no_picture_is_refused_in_words(client, digit, documented):
    for name, case in image_corpus.refused_files(digit).items():
        response = classify(client, case.data, case.content_type)
        problem = assert_refused(response, documented, name)
        assert (problem["status"], problem["code"]) == (case.status, case.code), (name, problem)


def test_the_bad_ones_of_a_batch_leave_the_good_ones_alone(client, digit, digit_pngs):
    good = digit_pngs[0][0]
    alone = classify(client, good, "png").json()
    bad = list(image_corpus.refused_files(digit).values())[:31]
    files = [
        ("file", ("x", data, f"image/{kind}"))
        for case in bad
        for data, kind in ((case.data, case.content_type), (good, "png"))
    ]
    outcomes = client.post("/v1/classify/batch", files=files).json()["outcomes"]
    codes = [outcome["problem"]["code"] for outcome in outcomes[::2]]
    assert codes == [case.code for case in bad]
    for outcome in outcomes[1::2]:
        assert outcome["result"]["label"] == alone["label"]
        assert outcome["result"]["confidence"] == pytest.approx(alone["confidence"], abs=1e-5)


def test_memory_does_not_grow(server, client, digit):
    everything = [
        *((data, re.match(r"\w+", name)[0]) for name, data in image_corpus.valid_files(digit)),  # type: ignore[index]
        *((data, re.match(r"\w+", name)[0]) for name, data in image_corpus.odd_sizes()),  # type: ignore[index]
        *((case.data, case.content_type) for case in image_corpus.refused_files(digit).values()),
    ]

    def rounds(count: int) -> int:
        for _ in range(count):
            for data, kind in everything:
                classify(client, data, kind)
        return resident_bytes(server.process.pid)

    before = rounds(2)  # pools and caches have their size now, and each thread saw the largest
    after = rounds(3)
    assert after - before < 32 * 2**20, f"{len(everything)} files, three times: {before} to {after}"


def resident_bytes(pid: int) -> int:
    [line] = [x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmRSS" in x]
    return 1024 * int(line.split()[1])
