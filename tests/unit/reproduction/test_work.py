"""`fend reproduce` on drawn digits: what is finished is kept, whatever happens to the process."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from fend.bundles import load_bundle
from fend.errors import Invalid
from fend.threat import Knowledge
from reproduction.cells import DEFENCES, PAPER_ROWS, Cell, plan
from reproduction.profiles import profiles
from reproduction.result import CellResult, is_done, read_results, result_path
from reproduction.run_cell import Paths
from reproduction.work import run_cells
from training.recipe import Recipe

FEND = Path(sys.executable).parent / "fend"
TIMES = ("train_s", "attack_s", "cpu_s")


def _tiny(defence: str) -> Cell:
    """A cell of profile smoke, attacked on still fewer images."""
    [cell] = plan("smoke", only=[defence])
    return replace(cell, images=20, shard=10)


def _run(cells: list[Cell], out: Path) -> tuple[dict[str, str], str]:
    console = Console(record=True, width=200, quiet=False, file=open(os.devnull, "w"))  # noqa: SIM115
    failed = run_cells(cells, Paths(out, None, "cpu"), 1, console)
    console.file.close()
    return failed, console.export_text()


@pytest.fixture(scope="module")
def squeezed(tmp_path_factory) -> tuple[Path, Cell]:
    """Feature squeezing, run once."""
    out = tmp_path_factory.mktemp("reproduction")
    cell = _tiny("feature-squeezing")
    failed, _ = _run([cell], out)
    assert not failed
    return out, cell


def test_a_cell_is_attacked_at_every_level_and_bpda_gets_past_what_has_no_gradient(squeezed):
    out, cell = squeezed
    [result] = read_results(out)
    [threat] = result.threats
    assert list(threat.levels) == [
        Knowledge.BLACK_BOX, Knowledge.GREY_BOX, Knowledge.GREY_BOX_AWARE, Knowledge.WHITE_BOX,
    ]  # fmt: skip
    tried = " ".join(threat.white_box_attacks)
    assert {"APGD-5", "BPDA", "SQUARE-5"} <= set(tried.split())
    white = threat.levels[Knowledge.WHITE_BOX]
    assert white.pgd.accuracy < result.clean.accuracy  # through the rounding there is no gradient
    for level in threat.levels.values():
        assert level.fgsm.wrong_ranks | level.pgd.wrong_ranks <= level.worst.wrong_ranks
        assert level.worst.n == 20
    assert threat.at_zero.correct == result.clean.correct
    assert threat.at_half.accuracy <= 0.2
    [detection] = result.detection
    assert set(detection.detected) == {"fgsm", "pgd"}
    assert not (out / "work" / "smoke" / "audits" / cell.key).exists()  # nothing left over


def test_the_bundle_of_a_cell_loads_and_answers(squeezed):
    out, cell = squeezed
    bundle = load_bundle(out / "work" / "smoke" / "models" / cell.recipe.name)
    assert bundle.defence(torch.rand(2, 1, 28, 28)).shape == (2, 10)
    assert bundle.manifest.version == read_results(out)[0].model_version


def test_what_is_done_is_not_done_again_but_a_changed_recipe_is(squeezed):
    out, cell = squeezed
    before = result_path(out, cell).stat().st_mtime_ns
    failed, said = _run([cell], out)
    assert not failed
    assert "1 of 1 cells are done" in said
    assert result_path(out, cell).stat().st_mtime_ns == before
    longer = cell.recipe.classifier.model_copy(update={"epochs": 4})
    changed = replace(cell, recipe=cell.recipe.model_copy(update={"classifier": longer}))
    assert not is_done(out, changed)
    reworded = replace(cell, recipe=cell.recipe.model_copy(update={"summary": "Other words."}))
    assert is_done(out, reworded)


def test_a_cell_that_cannot_be_run_is_told_and_the_others_are_run(squeezed):
    out, cell = squeezed
    data = cell.recipe.data.model_copy(update={"train": "mnist:train", "test": "mnist:test"})
    broken = replace(
        cell, defence="unsecured", recipe=cell.recipe.model_copy(update={"data": data})
    )
    failed, said = _run([broken, cell], out)
    assert list(failed) == [broken.name]
    assert "FEND_DATA_DIR" in failed[broken.name]
    assert f"not run {broken.name}" in said
    assert is_done(out, cell)


def _start(out: Path, workers: int = 1) -> subprocess.Popen[str]:
    command = [
        str(FEND), "reproduce", "--profile", "smoke", "--only", "pixel-mse", "--out", str(out),
        "--workers", str(workers), "--device", "cpu",
    ]  # fmt: skip
    return subprocess.Popen(
        command,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "FEND_DATA_DIR": str(out.parent)},
    )


def _wait_for(pattern: str, out: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while not list(out.glob(pattern)):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def _finish(out: Path) -> str:
    process = _start(out)
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    return said


def _numbers(out: Path) -> dict[str, object]:
    """The one result in `out`, without the times."""
    [path] = (out / "cells").glob("*.json")
    result = json.loads(path.read_text())
    return {key: value for key, value in result.items() if key not in TIMES}


def test_killed_twice_it_ends_with_the_numbers_of_an_undisturbed_run(tmp_path):
    failed, _ = _run(plan("smoke", only=["pixel-mse"]), tmp_path / "undisturbed")
    assert not failed
    out = tmp_path / "killed"
    # While it trains, in a process of its own that ends with its parent; then while it attacks.
    _wait_for("work/smoke/runs/adversaries/*/chunk-*.safetensors", out, _start(out, workers=2))
    _wait_for("work/smoke/audits/*/*/shard-00000.json", out, _start(out))
    _finish(out)
    assert _numbers(out) == _numbers(tmp_path / "undisturbed")
    tables = {path.name: path.read_bytes() for path in out.glob("mnist.*")}
    assert set(tables) == {"mnist.md", "mnist.json", "mnist.svg"}
    assert "1 of 1 cells are done" in _finish(out)
    assert {path.name: path.read_bytes() for path in out.glob("mnist.*")} == tables


def test_the_plan_starts_with_the_papers_rows_and_gives_them_more_seeds():
    cells = plan("cpu", data=["mnist"])
    assert [cell.defence for cell in cells[:5]] == list(PAPER_ROWS)
    seeds = {name: sum(c.defence == name and c.group == "defences" for c in cells)
             for name in DEFENCES["mnist"]}  # fmt: skip
    assert {seeds[name] for name in PAPER_ROWS} == {3}
    assert seeds["trades"] == 1
    assert all(c.recipe.seed == c.seed for c in cells)


@pytest.mark.parametrize("profile", list(profiles()))
def test_every_profile_has_recipes_that_are_whole_and_names_that_differ(profile):
    cells = plan(profile)
    assert len({cell.name for cell in cells}) == len(cells)
    assert len({cell.key for cell in cells}) == len(cells)
    for cell in cells:
        Recipe.model_validate(cell.recipe.model_dump(mode="json"))


def test_the_ablation_changes_nothing_but_the_loss():
    cells = [cell for cell in plan("cpu", data=["mnist"]) if cell.group == "ablation"]
    none = next(cell for cell in cells if cell.defence == "none")
    for cell in cells:
        kept = {"loss", "name"}
        assert cell.recipe.model_dump(exclude=kept) == none.recipe.model_dump(exclude=kept)
    assert none.recipe.loss.network is None
    taps = {cell.recipe.loss.taps for cell in cells if cell.recipe.loss}
    assert {"text", "shapes", "author_code", "fire"} <= taps


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"profile": "huge"}, "--profile: 'huge' is none of: full, cpu, smoke"),
        ({"profile": "cpu", "data": ["svhn"]}, "--data: 'svhn'"),
        ({"profile": "smoke", "data": ["cifar10"]}, "--data: 'cifar10' is none of: mnist"),
        ({"profile": "cpu", "only": ["hope"]}, "--only: 'hope' is none of: unsecured"),
    ],
)
def test_what_there_is_not_is_refused_by_name(asked, said):
    with pytest.raises(Invalid, match=said):
        plan(asked.pop("profile"), **asked)


def test_a_result_that_cannot_be_read_counts_as_not_done(squeezed, tmp_path):
    _, cell = squeezed
    path = result_path(tmp_path, cell)
    path.parent.mkdir()
    path.write_text('{"format": "fend-reproduce/0"}')
    assert not is_done(tmp_path, cell)
    assert CellResult.model_fields["format"].default == "fend-reproduce/2"
