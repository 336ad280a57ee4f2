"""An attack on one picture: what it may cost."""

import asyncio
import dataclasses
import time

import pytest
import torch
from torch import Tensor, nn

from fend.attacks import PGD
from fend.bundles import load_bundle
from fend.errors import Invalid
from fend.pipeline import Defence
from fend.threat import ThreatModel
from service.inference.attacker import Attacker
from service.observe.metrics import Metrics


class Slow(nn.Module):
    """The same images, a little later."""

    def forward(self, images: Tensor) -> Tensor:
        time.sleep(0.02)
        return images * 1


def test_an_attack_that_would_outlast_its_request_is_refused_with_its_estimate(
    app_settings, tiny_bundle_dir
):
    bundle = load_bundle(tiny_bundle_dir / "mnist")
    slow = dataclasses.replace(bundle, defence=Defence(Slow(), bundle.defence.classifier).eval())

    async def attack() -> None:
        attacker = Attacker(app_settings, Metrics())
        try:
            await attacker.attack(
                slow, torch.rand(1, 28, 28), PGD(steps=10_000, early_stop=False),
                ThreatModel(epsilon=0.1), time.monotonic() + 60, through_denoiser=True, label=3,
            )  # fmt: skip
        finally:
            await attacker.close()

    with pytest.raises(Invalid, match="10000 steps would take about") as refused:
        asyncio.run(attack())
    assert refused.value.code == "attack_too_long"
