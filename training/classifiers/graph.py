"""Conversion of a module to a graph (see `fend.models.graph`), with torch.export.

Not torch.export's own archive (.pt2): reading one evaluates expressions from the file and unpickles
its constants, and a bundle must be safe to read.
"""

import math
import operator
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, export
from torch.export.graph_signature import InputKind
from torch.fx import Node

from fend.errors import Invalid
from fend.models.graph_ops import NUMBERS, operation


def graph_of(
    module: nn.Module, images: Tensor, input_name: str
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The configuration of a graph network, and the constants of the module's code by name.

    `module` is in eval mode; `images` (2,C,H,W) are an example. The graph takes any batch size.

    Raises:
        Invalid: torch.export cannot trace its code, or it needs an operation that graphs may not
            use (`graph_impossible`).
    """
    try:
        program = export(module, (images,), dynamic_shapes=({0: Dim.DYNAMIC},))
        program = program.run_decompositions({})  # no in-place operations
    except Exception as error:  # torch.export has no common class for its refusals
        raise Invalid(
            f"torch.export cannot follow the classifier: {error}", code="graph_impossible"
        ) from error
    names: dict[str, dict[str, str]] = {}
    constants: dict[str, Tensor] = {}
    for spec in program.graph_signature.input_specs:
        if spec.kind is InputKind.USER_INPUT:
            names[spec.arg.name] = {"value": input_name}
        elif spec.target is not None:
            names[spec.arg.name] = {"tensor": spec.target}
    state = dict(module.state_dict())
    for name, value in program.constants.items():
        if isinstance(value, Tensor) and name not in state:
            constants[name] = value.detach().clone()
    steps = [
        _step(node, names)
        for node in program.graph.nodes
        if node.op not in ("placeholder", "output")
    ]
    (output,) = (node for node in program.graph.nodes if node.op == "output")
    learnt = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    tensors = {
        name: {
            "shape": list(tensor.shape),
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "learnt": name in learnt,
        }
        for name, tensor in (state | constants).items()
    }
    return {"tensors": tensors, "steps": steps, "logits": output.args[0][0].name}, constants


def _step(node: Node, names: dict[str, dict[str, str]]) -> dict[str, Any]:
    op = _operation_name(node.target)
    try:
        operation(op)
    except ValueError as error:
        raise Invalid(f"{error}: {_place(node)}", code="graph_impossible") from error
    return {
        "name": node.name,
        "op": op,
        "args": [_as_data(item, names) for item in node.args],
        "kwargs": {
            key: _as_data(item, names) for key, item in node.kwargs.items() if item is not None
        },
    }


def _operation_name(target: Any) -> str:
    for name, function in NUMBERS.items():
        if target is function or target is getattr(operator, name):
            return f"number.{name}"
    return str(target)


def _place(node: Node) -> str:
    """The place in the user's code."""
    lines = (node.stack_trace or "").strip().splitlines()
    return " ".join(line.strip() for line in lines[-2:]) or node.name


def _as_data(arg: Any, names: dict[str, dict[str, str]]) -> Any:
    if isinstance(arg, Node):
        return names.get(arg.name, {"value": arg.name})
    if isinstance(arg, list | tuple):
        return [_as_data(item, names) for item in arg]
    if isinstance(arg, float) and not math.isfinite(arg):
        return {"float": str(arg)}
    if arg is None or isinstance(arg, bool | int | float | str):
        return arg
    for kind in ("dtype", "memory_format", "layout"):
        if isinstance(arg, getattr(torch, kind)):
            return {kind: str(arg).removeprefix("torch.")}
    if isinstance(arg, torch.device):
        return {"device": "images"}
    raise Invalid(f"{arg!r} cannot be written down", code="graph_impossible")
