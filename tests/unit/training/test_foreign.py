"""Classifiers of the user's: any architecture, taken as it is, and served without its code."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision import models

from fend.bundles import load_bundle, read_manifest
from fend.images import InputSpec
from fend.models import build
from fend.models.graph import INPUT
from fend.pipeline import Defence, frozen
from service.inference.frozen_graph import Served
from service.inference.frozen_graph import frozen as frozen_graph
from training.classifiers import ForeignInvalid, classifier_of
from training.classifiers.foreign import digest_of
from training.classifiers.graph import graph_of
from training.recipe import RecipeError
from training.recipe.files import load_recipe
from training.recipe.smaller import smoke, surrogate_recipe

FEND = Path(sys.executable).parent / "fend"
DIGITS = InputSpec(channels=1, height_px=28, width_px=28)
CODE = """
import warnings
import torch
from torch import nn

class Scaled(nn.Module):
    def forward(self, images):
        return (images - torch.tensor([0.13]).view(1, 1, 1)) / 0.31

def good():
    return nn.Sequential(
        Scaled(), nn.Conv2d(1, 6, 3, stride=2), nn.BatchNorm2d(6), nn.SiLU(inplace=True),
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(0.5), nn.Linear(96, 10),
    )

class Chance(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = good()
    def forward(self, images):
        return self.inner(images + torch.rand_like(images))

class Batch(Chance):
    def forward(self, images):
        return self.inner(images - images.mean())

class Branching(Chance):
    def forward(self, images):
        return self.inner(images) if images.mean() > 0.1 else -self.inner(images)

class Rounding(Chance):
    def forward(self, images):
        return self.inner(images.detach())

def one_number():
    return nn.Sequential(good(), nn.Linear(10, 1))

def softmax():
    return nn.Sequential(good(), nn.Softmax(dim=1))

def log_softmax():
    return nn.Sequential(good(), nn.Unflatten(1, (10, 1)), nn.LogSoftmax(1), nn.Flatten())

def sigmoid():
    return nn.Sequential(good(), nn.Sigmoid())

class Probable(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = good()
    def forward(self, images):
        exp = self.inner(images).exp()
        return exp / exp.sum(1, keepdim=True)

def probable():
    return Probable()

def scripted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        return torch.jit.trace(good().eval(), torch.rand(1, 1, 28, 28))

def exported():
    return torch.export.export(good().eval(), (torch.rand(2, 1, 28, 28),)).module()

def failing():
    return 1 / 0

def colour():
    return nn.Conv2d(3, 10, 28)

def nothing():
    return None
"""


@pytest.fixture
def mine(tmp_path, monkeypatch) -> Path:
    """The user's folder, with `mine.py` in it."""
    (tmp_path / "mine.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    return tmp_path


def _weights(folder: Path) -> Path:
    import mine  # type: ignore[import-not-found]

    torch.manual_seed(3)
    module = mine.good()
    for name, buffer in module.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    path = folder / "mine.safetensors"
    save_file(module.state_dict(), path, metadata={"format": "pt"})
    return path


def test_one_command_protects_a_classifier_and_the_service_needs_no_code_of_it(mine) -> None:
    weights = _weights(mine)
    done = subprocess.run(
        [
            FEND, "train", "mnist-online", "--smoke", "--threads", "1",
            "--classifier", "mine:good", "--classifier-weights", weights.name,
            "--set", "data.limit=100", "--models-dir", "models", "--runs-dir", "runs",
        ],
        cwd=mine, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    bundle = mine / "models" / "mnist-online-good-smoke"
    (mine / "mine.py").unlink()
    served = load_bundle(bundle)
    assert served.defence(torch.rand(3, 1, 28, 28)).shape == (3, 10)
    before, after = load_file(weights), load_file(bundle / "classifier.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    card = (bundle / "README.md").read_text()
    assert card.splitlines()[2].endswith("`fend audit` does.")
    assert digest_of(before) in card, "the card gives the digest"
    assert "foreign" in card
    assert read_manifest(bundle).about["foreign_classifier"]["weights"] == weights.name


def test_the_graph_is_the_module_for_batches_of_any_size(mine) -> None:
    weights = _weights(mine)
    taken = classifier_of("mine:good", weights=weights, otherwise=DIGITS)
    network, origin = taken.module, taken.origin
    assert (taken.classes, taken.labels, taken.input) == (10, None, DIGITS)
    import mine as code

    module = code.good().eval()
    module.load_state_dict(load_file(weights))
    for count in (1, 2, 7):
        images = torch.rand(count, 1, 28, 28)
        assert torch.allclose(network(images), module(images), atol=1e-5)
    assert set(origin.names) == set(module.state_dict())
    assert not any("dropout" in step["op"] for step in taken.config["steps"])
    origin.check(network)
    next(network.parameters()).data[0] += 1e-6
    with pytest.raises(ForeignInvalid, match="changed"):
        origin.check(network)


@pytest.mark.parametrize(
    "made",
    [
        lambda: models.resnet18(num_classes=5),
        lambda: models.mobilenet_v2(num_classes=5, width_mult=0.25),
        lambda: models.SwinTransformer([4, 4], 8, [2], [2], [4, 4], num_classes=5),
    ],
    ids=["resnet18", "mobilenet_v2", "swin"],
)
def test_a_graph_is_served_as_one_call_for_batches_of_any_size(made) -> None:
    module = frozen(made())
    example = torch.rand(2, 3, 32, 32)
    config, constants = graph_of(module, example, INPUT)
    network = frozen(build("graph", config))
    network.load_state_dict(module.state_dict() | constants)
    served = frozen_graph(Served(Defence(nn.Identity(), network)), example[0])
    for count in (1, 2, 7):
        images = torch.rand(count, 3, 32, 32)
        assert torch.allclose(served(images).undefended, module(images).softmax(1), atol=1e-5)


@pytest.mark.parametrize(
    ("factory", "told"),
    [
        ("mine", "package.module:function"),
        ("nowhere:good", "nowhere"),
        ("mine:bad", "bad"),
        ("mine:nothing", "NoneType"),
        ("mine:Chance", "chance"),
        ("mine:Batch", "batch"),
        ("mine:Branching", "torch.export"),
        ("mine:Rounding", "differentiated"),
        ("mine:colour", "1x28x28"),
        ("mine:one_number", "a logit a class"),
        ("mine:probable", "probabilities, not logits"),
        ("mine:scripted", "TorchScript module"),
        ("mine:exported", "torch.export.save"),
        ("mine:failing", "ZeroDivisionError"),
    ],
)
def test_what_cannot_be_protected_is_told(mine, factory, told) -> None:
    del mine
    with pytest.raises(ForeignInvalid, match=told):
        classifier_of(factory, otherwise=DIGITS)


def test_weights_that_are_not_its_own_are_told(mine) -> None:
    other, pickled = mine / "other.safetensors", mine / "pickled.pt"
    save_file({"0.weight": torch.ones(2)}, other)
    torch.save(nn.Linear(2, 2).state_dict(), pickled)
    script = mine / "script.pt"
    with pytest.warns(FutureWarning):  # TorchScript is deprecated
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), script)
    whole = mine / "whole.pt"
    torch.save(nn.Linear(2, 2), whole)
    for path, told in [
        (other, "it lacks 1.bias .and 8 more.; has also 0.weight"),
        (pickled, "lacks"),
        (whole, "more than tensors"),
        (script, "is TorchScript"),
        (mine / "mine.py", "more than tensors"),
        (mine / "absent.safetensors", "absent"),
        (mine / "absent.pt", "absent"),
    ]:
        with pytest.raises(ForeignInvalid, match=told):
            classifier_of("mine:good", weights=path, otherwise=DIGITS)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_of_torch_save_are_taken_as_they_are(mine, prefix) -> None:
    state = load_file(_weights(mine))
    saved = {f"{prefix}{name}": tensor for name, tensor in state.items()}
    torch.save({"epoch": 3, "model": saved} if prefix else saved, mine / "w.pth")
    taken = classifier_of("mine:good", weights=mine / "w.pth", otherwise=DIGITS)
    assert taken.origin.tensors_sha256 == digest_of(state)


@pytest.mark.parametrize("end", ["softmax", "log_softmax", "sigmoid"])
@pytest.mark.usefixtures("mine")
def test_what_a_network_ends_in_is_left_out_and_said(end) -> None:
    torch.manual_seed(0)
    taken = classifier_of(f"mine:{end}", otherwise=DIGITS)
    import mine as code

    torch.manual_seed(0)
    whole, images = getattr(code, end)().eval(), torch.rand(3, 1, 28, 28)
    logits = taken.module(images)
    assert logits.requires_grad is False
    ended = logits.sigmoid() if end == "sigmoid" else getattr(logits, end)(1)
    assert torch.allclose(ended, whole(images), atol=1e-6)
    assert taken.origin.about()["notes"] == [
        f"the {end} at its end is left out: attacks and suspicion need logits"
    ]


def _recipe(*changes: str):
    small = smoke(load_recipe("mnist-online", changes=["classifier.factory=mine:good", *changes]))
    data = small.data.model_copy(update={"limit": 60, "held_out": 20})
    return small.model_copy(update={"data": data})


def test_a_run_is_not_resumed_with_other_weights(run, mine) -> None:
    weights = _weights(mine)
    recipe = _recipe(f"classifier.weights={weights}")
    run(recipe, mine)
    run(recipe, mine, resume=True)
    state = load_file(weights)
    save_file(state | {"1.bias": state["1.bias"] + 1}, weights)
    with pytest.raises(RecipeError, match="other weights"):
        run(recipe, mine, resume=True)
    # An attacker without the weights makes a network of the recipe's own.
    surrogate = surrogate_recipe(read_manifest(mine / "models" / recipe.name), seed=9)
    assert surrogate.classifier.factory is None
    assert surrogate.classifier.architecture == "paper-lenet"
