"""Networks as data: what a bundle may hold of a classifier that Fend does not know."""

import json

import pytest
import torch
from refusals import code

from fend.audit.work.attacked import AttackedModel
from fend.errors import Invalid
from fend.models import build

LINEAR = {
    "tensors": {
        "head.weight": {"shape": [3, 4], "dtype": "float32", "learnt": True},
        "head.bias": {"shape": [3], "dtype": "float32", "learnt": True},
        "mean": {"shape": [], "dtype": "float32", "learnt": False},
    },
    "steps": [
        {
            "name": "centred",
            "op": "aten.sub.Tensor",
            "args": [{"value": "images"}, {"tensor": "mean"}],
            "kwargs": {},
        },
        {
            "name": "flat",
            "op": "aten.flatten.using_ints",
            "args": [{"value": "centred"}, 1],
            "kwargs": {},
        },
        {
            "name": "logits",
            "op": "aten.linear.default",
            "args": [{"value": "flat"}, {"tensor": "head.weight"}, {"tensor": "head.bias"}],
            "kwargs": {},
        },
    ],
    "logits": "logits",
}


def _changed(**changes: object) -> dict:
    """`LINEAR` with other entries in its last step."""
    config = json.loads(json.dumps(LINEAR))
    config["steps"][-1] |= changes
    return config


def test_a_graph_computes_what_it_says_and_shows_its_features() -> None:
    network = build("graph", json.loads(json.dumps(LINEAR)))
    state = {"head.weight": torch.randn(3, 4), "head.bias": torch.randn(3)}
    network.load_state_dict(state | {"mean": torch.tensor(0.5)})
    images = torch.rand(5, 1, 2, 2, requires_grad=True)
    flat = (images - 0.5).flatten(1)
    expected = flat @ state["head.weight"].T + state["head.bias"]
    assert torch.allclose(network(images), expected, atol=1e-6)
    (gradient,) = torch.autograd.grad(network(images).sum(), images)
    assert torch.allclose(gradient.flatten(1), state["head.weight"].sum(0).expand(5, 4))
    # The feature-space attack of an audit needs what goes into the last layer.
    assert torch.equal(AttackedModel(network, network).features(images), flat)


@pytest.mark.parametrize(
    "op",
    [
        "aten.from_file.default",  # reads a file
        "aten.rand.default",  # draws at random
        "aten.add_.Tensor",  # changes its input
        "aten.add.out",
        "aten.no_such_operation.default",
        "prims.add.default",
        "number.attrgetter",
        "os.system",
        "builtins.eval",
    ],
)
def test_operations_that_no_classifier_needs_are_refused(op) -> None:
    with pytest.raises(Invalid, match="none of the operations", check=code("architecture_unknown")):
        build("graph", _changed(op=op))


@pytest.mark.parametrize(
    "config",
    [
        _changed(args=[{"value": "later"}]),
        _changed(args=[{"tensor": "not.there"}]),
        _changed(args=[{"dtype": "load"}]),
        _changed(args=[{"import": "os"}]),
        _changed(args=[{"value": "flat", "tensor": "mean"}]),
        _changed(name="flat"),
        _changed(extra=1),
        LINEAR | {"logits": "nothing"},
        LINEAR | {"tensors": {"": {"shape": [1], "dtype": "float32", "learnt": True}}},
        LINEAR | {"tensors": {"forward": {"shape": [1], "dtype": "float32", "learnt": True}}},
        LINEAR | {"tensors": {"a": {"shape": [1], "dtype": "Tensor", "learnt": True}}},
        LINEAR | {"tensors": {"a": {}}},
    ],
)
def test_what_is_written_wrongly_is_an_unknown_architecture(config) -> None:
    with pytest.raises(Invalid, check=code("architecture_unknown")):
        build("graph", config)


def test_a_step_that_cannot_run_is_named() -> None:
    index = {"op": "number.getitem", "args": [{"value": "flat"}, "a text"]}
    network = build("graph", _changed(**index))
    with pytest.raises(RuntimeError, match="logits"):
        network(torch.rand(1, 1, 2, 2))
