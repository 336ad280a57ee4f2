"""A network as data: the operations of any classifier, written down, so that it needs no code.

    {"tensors": {"stem.weight": {"shape": [8, 1, 3, 3], "dtype": "float32", "learnt": true}},
     "steps":   [{"name": "conv2d", "op": "aten.conv2d.default",
                  "args": [{"value": "images"}, {"tensor": "stem.weight"}], "kwargs": {}}],
     "logits":  "conv2d"}

`training.classifiers` writes it from a module of the user's; a bundle holds it, and the service
runs it without importing what the module was made of. Only the operations of `graph_ops` may be in
it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from fend.models.graph_ops import operation, within_64_bits

INPUT = "images"
MAX_ENTRIES = 20_000
"""Steps, and tensors; the largest classifiers of torchvision have 3,000."""
_MAX_TEXT = 300
_MAX_DEPTH = 50  # of modules in modules


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
        if max(len(tensors), len(steps)) > MAX_ENTRIES:
            raise ValueError(f"a graph has at most {MAX_ENTRIES} steps and as many tensors")
        for name, tensor in tensors.items():
            try:
                _hold(self, name, tensor)
            except (KeyError, RuntimeError, AttributeError) as error:
                raise ValueError(f"tensors: {name!r} cannot be: {error}") from error
        reader = _Reader(tensors)
        for step in steps:
            reader.add(step)
        self._graph = reader.finish(logits)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N,C,H,W) in [0, 1] to logits (N, classes).

        Raises:
            RuntimeError: a step that does not take what it is given.
        """
        logits: Tensor = _Run(self, self._graph).run(images)
        return logits


class _Run(fx.Interpreter):
    """One pass. Never fx.GraphModule, which turns the names of a bundle into Python code."""

    def __init__(self, network: nn.Module, graph: fx.Graph) -> None:
        super().__init__(network, graph=graph)
        self.extra_traceback = False  # a failure is reported in one line
        self._named = {
            **self.submodules,
            **dict(network.named_parameters()),
            **dict(network.named_buffers()),
        }

    def fetch_attr(self, target: str) -> Any:
        return self._named[target]  # walking there part by part costs a third of a small network

    def run_node(self, n: fx.Node) -> Any:
        try:
            return super().run_node(n)
        except (TypeError, ValueError, LookupError, ArithmeticError, RuntimeError) as error:
            raise RuntimeError(f"step {n.meta.get('step', n.name)}: {error}") from error


class _Layer(nn.Module):
    """The tensors of one layer. Its steps are called through it, so that hooks see what goes in."""

    def forward(self, _features: Any, op: str, /, *args: Any, **kwargs: Any) -> Any:
        """Result of the operation."""
        return operation(op)(*args, **kwargs)


class _Reader:
    """Builds the graph from the steps as they are written."""

    def __init__(self, tensors: Mapping[str, object]) -> None:
        self._tensors = tensors
        self._graph = fx.Graph()
        self._images = self._graph.placeholder(INPUT)
        self._values = {INPUT: self._images}

    def add(self, written: Mapping[str, Any]) -> None:
        """Add the next step."""
        if set(written) != {"name", "op", "args", "kwargs"} or str(written["name"]) in self._values:
            raise ValueError(f"a step is a new name, op, args and kwargs, not {dict(written)}")
        name, op = str(written["name"]), str(written["op"])
        if len(name) > _MAX_TEXT:
            raise ValueError(f"{name[:20]}...: the name has more than {_MAX_TEXT} characters")
        run = operation(op)
        inputs: list[fx.Node] = []
        layers: list[str] = []
        try:
            args = tuple(self._argument(item, inputs, layers) for item in written["args"])
            kwargs = {
                str(key): self._argument(item, inputs, layers)
                for key, item in written["kwargs"].items()
            }
        except LookupError as error:
            raise ValueError(f"{name}: nothing before it is called {error}") from error
        if inputs and layers and layers[0]:
            node = self._graph.call_module(layers[0], (inputs[0], op, *args), kwargs)
        else:
            node = self._graph.call_function(run, args, kwargs)
        node.meta["step"] = name
        self._values[name] = node

    def finish(self, logits: str) -> fx.Graph:
        """The whole graph."""
        if logits not in self._values:
            raise ValueError(f"logits: no step is called {logits!r}")
        self._graph.output(self._values[logits])
        return self._graph

    def _argument(self, written: Any, inputs: list[fx.Node], layers: list[str]) -> Any:
        """A number, a text, a list of arguments, or what a table says that stands here.

        Notes in `inputs` the values of steps, and in `layers` those whose tensors are used.
        """
        if isinstance(written, list):
            return [self._argument(item, inputs, layers) for item in written]
        if isinstance(written, int) and not within_64_bits(written):
            raise ValueError("a number has more than 64 bits")
        if isinstance(written, str) and len(written) > _MAX_TEXT:
            raise ValueError(f"{written[:20]!r}... is no argument of a step")
        if not isinstance(written, Mapping):
            return written
        ((kind, what),) = written.items()
        if kind == "value":
            inputs.append(self._values[what])
            return inputs[-1]
        if kind == "tensor":
            if what not in self._tensors:
                raise LookupError(repr(what))
            layers.append(what.rpartition(".")[0])
            return self._graph.create_node("get_attr", what)
        if kind == "float":  # inf and nan, which JSON has not
            return float(what)
        if kind == "device":  # that of the images
            return self._graph.call_function(getattr, (self._images, "device"))
        return _constant(kind, what)


def _constant(kind: str, name: str) -> Any:
    if kind in ("dtype", "memory_format", "layout"):
        found = getattr(torch, name, None)
        if isinstance(found, getattr(torch, kind)):
            return found
    raise ValueError(f"{ {kind: name} } is no argument of a step")


def _hold(root: nn.Module, name: str, written: Mapping[str, Any]) -> None:
    """Give `root` the tensor `name`, such as "stem.0.weight", in modules on the way to it."""
    *path, last = name.split(".")
    if len(path) > _MAX_DEPTH or len(name) > _MAX_TEXT:
        raise KeyError("its name is too long")
    module = root
    for part in path:
        if part not in module._modules:
            module.add_module(part, _Layer())
        module = module.get_submodule(part)
    tensor = torch.zeros(written["shape"], dtype=_constant("dtype", written["dtype"]))
    if written["learnt"]:
        module.register_parameter(last, nn.Parameter(tensor, requires_grad=False))
    else:
        module.register_buffer(last, tensor)
