"""`fend classify`, as people call it: at a service and here, good files and bad."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def fend_classify(folder: Path, *arguments: str, **variables: str) -> Any:
    kept = {name: value for name, value in os.environ.items() if name[:5] != "FEND_"}
    return subprocess.run(
        [sys.executable, "-c", "from fend.cli.main import main; main()", "classify", *arguments],
        cwd=folder, env=kept | {"COLUMNS": "200"} | variables, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip


@pytest.fixture
def pictures(tmp_path: Path, digit_pngs: list[tuple[bytes, str]]) -> Path:
    """A folder with `digits/0.png` to `digits/4.png`, another file, and `broken.png`."""
    (tmp_path / "digits").mkdir()
    for number, (picture, _) in enumerate(digit_pngs[:5]):
        (tmp_path / "digits" / f"{number}.png").write_bytes(picture)
    (tmp_path / "digits" / "notes.txt").write_text("not a picture")
    (tmp_path / "broken.png").write_bytes(digit_pngs[0][0][:60])
    return tmp_path


def test_here_and_at_a_service_the_answers_are_the_same(pictures, app_client, tiny_bundle_dir):
    asked = ("digits", "broken.png", "digits/[01].png", "gone.png", "--json", "--top-k", "2")
    there = fend_classify(pictures, *asked, "--url", str(app_client.base_url))
    here = fend_classify(pictures, *asked, "--models-dir", str(tiny_bundle_dir))
    assert (there.returncode, here.returncode) == (1, 1), there.stderr + here.stderr
    lines = [json.loads(line) for line in there.stdout.splitlines()]
    digits = [f"digits/{number}.png" for number in (0, 1, 2, 3, 4)]
    assert [line["file"] for line in lines] == [*digits, "broken.png", *digits[:2], "gone.png"]
    assert [line["problem"]["code"] for line in lines if "problem" in line] == [
        "image_truncated", "image_unreadable"
    ]  # fmt: skip
    answers = [line for line in lines if "problem" not in line]
    assert {len(answer["top_k"]) for answer in answers} == {2}
    for mine, theirs in zip(here.stdout.splitlines(), lines, strict=True):
        assert close(json.loads(mine)) == close(theirs)


def close(said: Any) -> Any:
    """`said` with probabilities to six digits: a batch of one may differ in the last bit."""
    return json.loads(json.dumps(said), parse_float=lambda text: round(float(text), 6))


def test_a_table_for_people(pictures: Path, tiny_bundle_dir: Path, digit_pngs: Any) -> None:
    done = fend_classify(pictures, "digits", "--model", str(tiny_bundle_dir / "mnist"))
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if ".png" in line]
    assert len(rows) == 5
    right = sum(f" {label} " in row for row, (_, label) in zip(rows, digit_pngs[:5], strict=True))
    assert right >= 4
    missing = fend_classify(pictures, "gone-[0-9].png", "--models-dir", str(tiny_bundle_dir))
    assert missing.returncode == 1
    assert "gone-[0-9].png" in missing.stdout
    for title in ("File", "Label", "Confidence", "Undefended", "Suspicious"):
        assert title in done.stdout


def test_mistakes_are_one_clear_line(pictures: Path) -> None:
    for arguments, said in [
        (("digits", "--model", "gone"), "[bundle_missing]"),
        (("digits", "--url", "nowhere"), "is no URL of a service"),
        (("digits", "--url", "http://127.0.0.1:1", "--key-file", "none"), "[key_unreadable]"),
    ]:
        done = fend_classify(pictures, *arguments)
        assert done.returncode == 2
        assert said in done.stderr
        assert "Traceback" not in done.stderr
