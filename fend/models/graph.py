"""A network as data: the operations of any classifier, written down, so that it needs no code.

    {"tensors": {"stem.weight": {"shape": [8, 1, 3, 3], "dtype": "float32", "learnt": true}},
     "steps":   [{"name": "conv2d", "op": "aten.conv2d.default",
                  "args": [{"value": "images"}, {"tensor": "stem.weight"}], "kwargs": {}}],
     "logits":  "conv2d"}

`training.classifiers` writes it from a module of the user's; a bundle holds it, and the service
runs it without importing what the module was made of. Only the operations of `graph_ops` may be in
it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fend.models.graph_ops import operation

INPUT = "images"


class GraphNetwork(nn.Module):
    """Runs the steps in their order. Tensors have the names of the module that they come from.

    They are zeros until a state is loaded: a graph says nothing of first weights.

    Raises:
        ValueError: an operation that no graph may use, or a name that nothing stands for.
    """

    def __init__(
        self,
        tensors: Mapping[str, Mapping[str, Any]],
        steps: Sequence[Mapping[str, Any]],
        logits: str,
    ) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            try:
                _hold(self, name, tensor)
            except (KeyError, RuntimeError, AttributeError) as error:
                raise ValueError(f"tensors: {name!r} cannot be: {error}") from error
        known = {INPUT}
        self._steps: list[_Step] = []
        for written in steps:
            step = _Step.read(written, known, tensors)
            self._steps.append(step)
            known.add(step.name)
        if logits not in known:
            raise ValueError(f"logits: no step is called {logits!r}")
        self._logits = logits
        self._finished = _finished(self._steps, logits)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N,C,H,W) in [0, 1] to logits (N, classes).

        Raises:
            RuntimeError: a step that does not take what it is given.
        """
        tensors = dict(self.named_parameters()) | dict(self.named_buffers())
        values: dict[str, Any] = {INPUT: images}
        for step, finished in zip(self._steps, self._finished, strict=True):
            call = partial(
                step.run,
                *(_resolved(arg, values, tensors, images.device) for arg in step.args),
                **{
                    key: _resolved(arg, values, tensors, images.device)
                    for key, arg in step.kwargs.items()
                },
            )
            try:
                if step.layer is None:
                    values[step.name] = call()
                else:
                    values[step.name] = self.get_submodule(step.layer)(values[step.takes], call)
            except (TypeError, ValueError, LookupError, ArithmeticError) as error:
                raise RuntimeError(f"step {step.name}: {error}") from error
            for name in finished:
                del values[name]
        logits: Tensor = values[self._logits]
        return logits


class _Layer(nn.Module):
    """The tensors of one layer. Its step is called through it, so that hooks see what goes in."""

    def forward(self, _features: Any, call: Callable[[], Any]) -> Any:
        """What `call` gives."""
        return call()


@dataclass(frozen=True)
class _Value:
    """What the step of that name gave."""

    name: str


@dataclass(frozen=True)
class _Held:
    """The tensor of that name."""

    name: str


class _Device:
    """Where the images are."""


@dataclass(frozen=True)
class _Step:
    name: str
    run: Callable[..., Any]
    args: list[Any]
    kwargs: dict[str, Any]
    layer: str | None
    """The module whose tensor the step uses first, if it also uses what another step gave."""
    takes: str
    """The first value that it uses."""

    @classmethod
    def read(
        cls, written: Mapping[str, Any], known: set[str], tensors: Mapping[str, object]
    ) -> "_Step":
        if set(written) != {"name", "op", "args", "kwargs"} or str(written["name"]) in known:
            raise ValueError(f"a step is a new name, op, args and kwargs, not {dict(written)}")
        args = [_read(item) for item in written["args"]]
        kwargs = {str(key): _read(item) for key, item in written["kwargs"].items()}
        values = [leaf.name for leaf in _leaves([args, kwargs]) if isinstance(leaf, _Value)]
        held = [leaf.name for leaf in _leaves([args, kwargs]) if isinstance(leaf, _Held)]
        for name in [
            *(v for v in values if v not in known),
            *(h for h in held if h not in tensors),
        ]:
            raise ValueError(f"{written['name']}: nothing before it is called {name!r}")
        layer = held[0].rpartition(".")[0] if held and values else ""
        return cls(
            str(written["name"]),
            operation(str(written["op"])),
            args,
            kwargs,
            layer or None,
            values[0] if values else INPUT,
        )


def _read(written: Any) -> Any:
    """An argument: a number, a text, a list of arguments, or a table that says what stands here."""
    if isinstance(written, list):
        return [_read(item) for item in written]
    if not isinstance(written, Mapping):
        return written
    ((kind, what),) = written.items()
    if kind == "value":
        return _Value(what)
    if kind == "tensor":
        return _Held(what)
    if kind == "float":  # inf and nan, which JSON has not
        return float(what)
    if kind == "device":
        return _Device()
    if kind in ("dtype", "memory_format", "layout"):
        found = getattr(torch, what, None)
        if isinstance(found, getattr(torch, kind)):
            return found
    raise ValueError(f"{dict(written)} is no argument of a step")


def _leaves(args: Any) -> list[Any]:
    if isinstance(args, dict):
        args = list(args.values())
    if isinstance(args, list):
        return [leaf for item in args for leaf in _leaves(item)]
    return [args]


def _resolved(
    arg: Any, values: Mapping[str, Any], tensors: Mapping[str, Tensor], device: torch.device
) -> Any:
    if isinstance(arg, _Value):
        return values[arg.name]
    if isinstance(arg, _Held):
        return tensors[arg.name]
    if isinstance(arg, _Device):
        return device
    if isinstance(arg, list):
        return [_resolved(item, values, tensors, device) for item in arg]
    return arg


def _finished(steps: Sequence[_Step], logits: str) -> list[list[str]]:
    """For each step the values that no later one uses, which then need no memory."""
    seen = {logits}
    finished: list[list[str]] = []
    for step in reversed(steps):
        used = [leaf.name for leaf in _leaves([step.args, step.kwargs]) if isinstance(leaf, _Value)]
        finished.append([name for name in dict.fromkeys([step.name, *used]) if name not in seen])
        seen |= {step.name, *used}
    return finished[::-1]


def _hold(root: nn.Module, name: str, written: Mapping[str, Any]) -> None:
    """Give `root` the tensor `name`, such as "stem.0.weight", in modules on the way to it."""
    *path, last = name.split(".")
    module = root
    for part in path:
        if part not in dict(module.named_children()):
            module.add_module(part, _Layer())
        module = module.get_submodule(part)
    dtype = _read({"dtype": written["dtype"]})
    tensor = torch.zeros(written["shape"], dtype=dtype)
    if written["learnt"]:
        module.register_parameter(last, nn.Parameter(tensor, requires_grad=False))
    else:
        module.register_buffer(last, tensor)
