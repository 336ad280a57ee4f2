"""Networks as data: what a bundle may hold of a classifier that Fend does not know."""

import json

import pytest
import torch
from refusals import code

from fend.audit.work.attacked import AttackedModel
from fend.errors import Invalid
from fend.models import build
from fend.models.cost import check_cost, is_cheap

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


V = {"value": "images"}
FLAT = {"name": "flat", "op": "aten.flatten.using_ints", "args": [V, 0], "kwargs": {}}


def _step(name: str, op: str, *args: object) -> dict:
    return {"name": name, "op": op, "args": list(args), "kwargs": {}}


def _chain(op: str, count: int, *first: object, as_list: bool = False) -> list[dict]:
    """Steps that each take the result of the one before it twice."""
    steps = [_step("s0", *first)]
    for number in range(count):
        twice = [{"value": f"s{number}"}] * 2
        steps.append(_step(f"s{number + 1}", op, *([twice] if as_list else twice)))
    return steps


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        (_chain("number.mul", 60, "number.add", 2, 0), "64 bits"),
        ([_step("s", "number.mul", "x", 5 * 10**9)], "no number"),
        ([_step("s", "number.mod", "%1000000000d", 1)], "no number"),
        ([_step("s", "number.mul", [1, 2], 5 * 10**9)], "no number"),
        ([_step("s", "number.neg", -(2**63))], "64 bits"),
        ([_step("s", "aten.full.default", [2 * 10**9], 1.0)], "bytes in one tensor"),
        ([_step("s", "aten.zeros.default", [-5])], "non-negative"),
        ([_step("s", "aten.repeat.default", V, [10**5, 10**5, 1, 1])], "bytes in one tensor"),
        ([_step("s", "aten.constant_pad_nd.default", V, [10**5] * 4)], "bytes in one tensor"),
        ([_step("s", "aten.upsample_nearest2d.vec", V, [10**5] * 2, None)], "bytes in one tensor"),
        ([_step("s", "aten.arange.start_step", 0, 10**9, 1e-9)], "bytes in one tensor"),
        (
            _chain("aten.cat.default", 60, "aten.cat.default", [V], as_list=True),
            "bytes in one tensor",
        ),
        (
            [
                _step("n", "aten.zeros.default", [10**7]),
                _step("u", "aten.unbind.int", {"value": "n"}),
            ],
            "operations",
        ),
        (
            [
                _step("e", "aten.expand.default", V, [-1, 10**9, -1, -1]),
                _step("s", "aten.sum.default", {"value": "e"}),
            ],
            "numbers",
        ),
        (
            [_step(f"z{n}", "aten.zeros.default", [2**26]) for n in range(10)]
            + [_step("c", "aten.stack.default", [{"value": f"z{n}"} for n in range(10)])],
            "bytes at one time",
        ),
        (
            [
                _step("p", "aten.constant_pad_nd.default", V, [2000] * 4),
                _step("q", "aten.max_pool2d.default", {"value": "p"}, [2000, 2000], [1, 1]),
            ],
            "multiplications",
        ),
        ([_step("s", "aten.where.default", V)], "nonzero"),
    ],
)
def test_what_asks_for_too_much_is_refused_before_it_runs(steps, said) -> None:
    graph = {"tensors": {}, "steps": steps, "logits": steps[-1]["name"]}
    with torch.device("meta"):
        network = build("graph", graph)
    with pytest.raises(RuntimeError, match=said):
        check_cost(network, (1, 28, 28))


@pytest.mark.parametrize(
    "config",
    [
        {"steps": [_step(f"n{n}", "number.add", 1, 1) for n in range(30_000)], "logits": "n1"},
        {"steps": [_step("n", "number.add", 2**70, 1)], "logits": "n"},
        {"steps": [_step("n", "aten.einsum.default", "a" * 1000, [V])], "logits": "n"},
        {"steps": [FLAT | {"name": "n" * 1000}], "logits": "n" * 1000},
        {"steps": [FLAT], "logits": "flat", "tensors": {"a." * 200 + "b": {}}},
    ],
)
def test_a_graph_is_bounded_before_it_is_built(config) -> None:
    with pytest.raises(Invalid, check=code("architecture_unknown")):
        build("graph", {"tensors": {}} | config)


@pytest.mark.parametrize(
    ("architecture", "config"),
    [
        ("residual-unet", {"scales": 10**9}),
        ("hgd-unet", {"scales": 10**9}),
        ("non-local-means", {"search_px": 10**9 + 1}),
        ("median-filter", {"size_px": 10**6}),
        ("paper-lenet", {"size_px": 10**9}),
        ("plain-cnn", {"convolutions": [[10**30, 3, 1]]}),
        ("plain-cnn", {"convolutions": [[3, 3, 0]]}),
        ("plain-cnn", {"convolutions": [3]}),
        ("sequence", {"stages": [{"architecture": "identity"}] * 1000}),
    ],
)
def test_a_configuration_that_asks_for_too_much_is_an_unknown_architecture(architecture, config):
    with torch.device("meta"), pytest.raises(Invalid, check=code("architecture_unknown")):
        build(architecture, config)


def test_attention_over_a_large_image_is_not_cheap_and_is_refused() -> None:
    with torch.device("meta"):
        network = build("feature-denoise-lenet", {"size_px": 28})
    assert is_cheap(network, (1, 28, 28))
    assert not is_cheap(network, (1, 4096, 4096))
    with pytest.raises(RuntimeError, match="bytes in one tensor"):
        check_cost(network, (1, 4096, 4096))
    check_cost(build("identity", {}), (3, 2048, 2048))
