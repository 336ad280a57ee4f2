"""What a card says of measurements that were made after training."""

from pathlib import Path

from fend.bundles import read_manifest
from training.card import model_card

SHIPPED = Path(__file__).parents[3] / "models" / "mnist"


def test_a_card_shows_the_classifier_alone_beside_the_whole() -> None:
    manifest = read_manifest(SHIPPED)
    beside = {
        "dataset": "mnist:test",
        "images": 500,
        "epsilon": 0.2,
        "attacks": ["FGSM", "APGD-100 (cross-entropy)"],
        "rows": {"clean": [0.992, 0.99], "white-box worst case per image": [0.85, 0.9]},
    }
    card = model_card("mnist", dict(manifest.about) | {"beside": beside})
    assert "## Beside the same classifier without the denoiser" in card
    assert "500 images of mnist:test, epsilon 0.2" in card
    assert "| white-box worst case per image | 0.8500 | 0.9000 |" in card
    assert "Beside" not in model_card("mnist", dict(manifest.about))
