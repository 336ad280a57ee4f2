"""A node of an ONNX graph with its inputs, as the operators see it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor


class Unsupported(Exception):
    """A use of an operator that is not supported; says which."""


@dataclass
class Node:
    """One operation of the file, and while it runs, what goes in."""

    kind: str
    name: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]
    opset: int
    values: list[Any] = field(default_factory=list)
    hold: Callable[[str, Any], Tensor] | None = None
    batch: Callable[[Any], Any] = field(default=lambda size: size)

    def bound(self, values: list[Any], hold: Any, batch: Any) -> "Node":
        """This node with its inputs."""
        return Node(
            self.kind, self.name, self.inputs, self.outputs, self.attributes, self.opset, values,
            hold, batch,
        )  # fmt: skip

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute."""
        return self.attributes.get(name, default)

    def has(self, index: int) -> bool:
        """Whether there is such an input."""
        return index < len(self.values) and self.values[index] is not None

    def tensor(self, index: int) -> Tensor:
        """An input as a tensor."""
        value = self.values[index]
        if isinstance(value, Tensor):
            return value
        assert self.hold is not None
        return self.hold(self.inputs[index], value)

    def numbers(self, index: int, name: str = "") -> list[Any] | None:
        """An input, or the attribute of that name, as numbers that no pixel decides."""
        if not self.has(index):
            found = self.attributes.get(name)
            return list(found) if isinstance(found, Sequence | np.ndarray) else found
        value = self.values[index]
        if isinstance(value, Tensor):
            raise Unsupported("where pixels decide a size or an axis")
        return list(np.atleast_1d(value).tolist())
