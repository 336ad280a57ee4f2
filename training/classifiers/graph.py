"""Conversion of a module to a graph (see `fend.models.graph`), with torch.export.

Not torch.export's own archive (.pt2): reading one evaluates expressions from the file and unpickles
its constants, and a bundle must be safe to read.
"""

import math
import operator
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export
from torch.export.graph_signature import InputKind, OutputKind, TensorArgument
from torch.fx import Node

from fend.errors import Invalid
from fend.models.graph_ops import NUMBERS, operation

PREFIX = "network."
"""Of the tensors of a network inside another module; they keep the names that they have alone."""

_SHAPES = ("view", "_unsafe_view", "reshape", "flatten", "squeeze", "alias", "clone", "detach")
_ENDS = {
    "softmax": "softmax", "_softmax": "softmax",
    "log_softmax": "log_softmax", "_log_softmax": "log_softmax",
    "sigmoid": "sigmoid",
}  # fmt: skip

Config = dict[str, Any]


def graph_of(
    module: nn.Module, images: Tensor, input_name: str
) -> tuple[Config, dict[str, Tensor]]:
    """The configuration of a graph network, and the constants of the module's code by name.

    `module` is in eval mode; `images` (2,C,H,W) are an example. The graph takes any batch size.

    Raises:
        Invalid: torch.export cannot trace its code, or it needs an operation that graphs may not
            use (`graph_impossible`).
    """
    try:
        program = export(module, (images,), dynamic_shapes=({0: Dim.DYNAMIC},))
    except Exception as error:  # torch.export has no class of its own for what it cannot follow
        raise Invalid(
            f"torch.export cannot follow the classifier: {error}", code="graph_impossible"
        ) from error
    config, tensors = written(program, input_name, PREFIX)
    state = {name.removeprefix(PREFIX) for name in module.state_dict()}
    return config, {name: tensor for name, tensor in tensors.items() if name not in state}


def written(
    program: ExportedProgram, input_name: str, prefix: str = ""
) -> tuple[Config, dict[str, Tensor]]:
    """The configuration of a graph network that does what `program` does, and its tensors, whose
    names lose `prefix`.

    Raises:
        Invalid: it does not take images alone and give logits alone, or needs an operation that no
            graph may use (`graph_impossible`).
    """
    program = program.run_decompositions({})  # nothing in place
    names: dict[str, dict[str, str]] = {}
    images = []
    signature = program.graph_signature
    for spec in signature.input_specs:
        if spec.kind is InputKind.USER_INPUT:
            names[spec.arg.name] = {"value": input_name}
            images.append(spec.arg.name)
        elif spec.target is not None:
            names[spec.arg.name] = {"tensor": spec.target.removeprefix(prefix)}
    logits = [spec.arg for spec in signature.output_specs if spec.kind is OutputKind.USER_OUTPUT]
    if len(images) != 1 or len(logits) != 1 or not isinstance(logits[0], TensorArgument):
        raise Invalid(
            f"it takes {len(images)} tensors and gives {len(logits)}; a classifier takes images "
            "and gives logits, and nothing else",
            code="graph_impossible",
        )
    (output,) = (node for node in program.graph.nodes if node.op == "output")
    used = _behind(output)
    steps = [
        _step(node, names)
        for node in program.graph.nodes
        if node in used and node.op not in ("placeholder", "output")
    ]
    learnt = {name.removeprefix(prefix) for name in signature.parameters}
    state = {**program.state_dict, **program.constants}
    state = {name.removeprefix(prefix): what for name, what in state.items()}
    tensors = {
        name: what.detach().clone() for name, what in state.items() if isinstance(what, Tensor)
    }
    described = {
        name: {
            "shape": list(tensor.shape),
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "learnt": name in learnt,
        }
        for name, tensor in tensors.items()
    }
    return {"tensors": described, "steps": steps, "logits": logits[0].name}, tensors


def without_end(config: Config) -> tuple[Config, str | None]:
    """The graph without the softmax, log_softmax or sigmoid that it ends in, and which that was."""
    steps = {step["name"]: step for step in config["steps"]}
    after: dict[str, Any] | None = None
    step = steps.get(config["logits"])
    while step is not None:
        packet, source = step["op"].split(".")[1], step["args"][0] if step["args"] else None
        if not isinstance(source, dict) or "value" not in source:
            return config, None
        if packet in _ENDS:
            kept = [s for s in config["steps"] if s is not step]
            if after is None:
                return config | {"steps": kept, "logits": source["value"]}, _ENDS[packet]
            moved = after | {"args": [source, *after["args"][1:]]}
            kept = [moved if s is after else s for s in kept]
            return config | {"steps": kept}, _ENDS[packet]
        if packet not in _SHAPES:
            return config, None
        after, step = step, steps.get(source["value"])
    return config, None


def _behind(output: Node) -> set[Node]:
    """The nodes that the output depends on: all but assertions and what nobody uses."""
    used: set[Node] = set()
    waiting = [output]
    while waiting:
        node = waiting.pop()
        if node not in used:
            used.add(node)
            waiting += node.all_input_nodes
    return used


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
