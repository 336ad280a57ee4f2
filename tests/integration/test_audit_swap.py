"""An audit is about the version that served when it was accepted, whatever serves later."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from fend.bundles import load_bundle, read_manifest, save_bundle
from fend.models.architectures.unet import ResidualUNet

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")

MODELS = "/v1/admin/models/mnist"
BODY = {
    "model": "mnist",
    "dataset": "rendered-digits",
    "samples": 12,
    "shard_size": 2,
    "sanity_samples": 2,
    "knowledge": ["white_box"],
    "seed": 5,
    "threat": {"norm": "linf", "epsilon": 0.1},
    "attacks": [{"name": "pgd", "steps": 100, "early_stop": False}],
}


@pytest.fixture
def models_dir(tiny_bundle_dir: Path, tmp_path: Path) -> Path:
    """`mnist` and a further version of it, with another denoiser."""
    folder = tmp_path / "models"
    shutil.copytree(tiny_bundle_dir / "mnist", folder / "mnist")
    old = load_bundle(folder / "mnist")
    torch.manual_seed(7)
    denoiser = ResidualUNet(width=4)
    with torch.no_grad():
        denoiser.last.weight.normal_(0, 0.2)
    save_bundle(
        folder / "mnist" / "versions" / "new",
        name="mnist",
        input_spec=old.manifest.content.input,
        labels=old.labels,
        denoiser=("residual-unet", {"width": 4}, denoiser),
        classifier=("paper-lenet", {}, old.defence.classifier),
        suspicion=old.manifest.content.suspicion,
        about={},
        card="",
    )
    return folder


def without_served(result: dict[str, Any]) -> dict[str, Any]:
    """A report but for what the service says of the pictures."""
    sanity = [line for line in result["sanity"] if "service" not in line["name"]]
    return {**result, "sanity": sanity, "served": None, "verdict": None}


def test_a_swap_or_an_unload_leaves_the_audit_with_its_version(
    audit_service: Any, models_dir: Path, tmp_path: Path
) -> None:
    old = read_manifest(models_dir / "mnist").version
    new = read_manifest(models_dir / "mnist" / "versions" / "new").version
    with audit_service(models_dir, tmp_path / "state") as audits:

        def activate(version: str) -> None:
            response = audits.http.post(f"{MODELS}/activate", json={"version": version})
            assert response.status_code == 200, response.text

        undisturbed = audits.finished(audits.start(BODY))
        assert undisturbed["served"]["agreed"]["n"] > 0

        swapped, queued = audits.start(BODY), audits.start(BODY)
        audits.wait_for(swapped, lambda audit: audit["progress"]["done"] > 0)
        activate(new)
        assert audits.get(swapped)["state"] == "running", "the swap came too late to tell"
        about_new = audits.start(BODY)
        for audit_id in (swapped, queued):
            result = audits.finished(audit_id)
            assert audits.get(audit_id)["model_version"] == old
            assert result["identity"]["model_version"] == old
            assert without_served(result) == without_served(undisturbed)
            assert result["served"] is None  # what serves is another, and says nothing of this one
            [line] = [line for line in result["sanity"] if "service" in line["name"]]
            assert line["passed"] is None
        shown = audits.http.get("/v1/models/mnist").json()
        assert (shown["version"], shown["last_audit"]["model_version"]) == (new, old)
        result = audits.finished(about_new)
        assert result["identity"]["model_version"] == new
        assert result["lines"] != undisturbed["lines"]

        activate(old)
        unloaded = audits.start(BODY)
        audits.wait_for(unloaded, lambda audit: audit["progress"]["done"] > 0)
        assert audits.http.post(f"{MODELS}/unload").status_code == 200
        audits.wait_for(unloaded, lambda audit: audit["progress"]["done"] == 12)
        result = audits.finished(unloaded)
        assert without_served(result) == without_served(undisturbed)
        assert result["served"] is None
