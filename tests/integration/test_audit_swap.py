"""An audit is about the version that served when it was accepted, whatever serves later."""

import sys
from typing import Any

import pytest

from fend.bundles import read_manifest

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


def without_served(result: dict[str, Any]) -> dict[str, Any]:
    """A report but for what the service says of the pictures."""
    sanity = [line for line in result["sanity"] if "service" not in line["name"]]
    return {**result, "sanity": sanity, "served": None, "verdict": None}


def test_a_swap_or_an_unload_leaves_the_audit_with_its_version(audit_service, models_dir, tmp_path):
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
