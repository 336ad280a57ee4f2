"""A classifier from an ONNX file: a torch module that does what the file says, node by node.

What depends on no image is computed once, when the file is read: weights that are put together,
and most of the arithmetic of shapes. Of the rest, sizes are kept apart from tensors, so that
torch.export sees which of them is the batch's.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from training.classifiers.onnx_layers import LAYERS
from training.classifiers.onnx_node import Node, Unsupported
from training.classifiers.onnx_shapes import SHAPES, SIZES
from training.classifiers.said import ForeignInvalid, Said

OPERATORS = LAYERS | SHAPES

_FLOATS = {1: "float32", 10: "float16", 11: "float64", 16: "bfloat16"}
"""By ONNX's number of the type."""

Value = Tensor | npt.NDArray[Any]
"""Of images, or known: constants, and sizes, among them that of the batch."""


def open_onnx(path: Path) -> tuple[nn.Module, Said]:
    """`FILE.onnx`; the size and the channels of its input are known from the file.

    Raises:
        ForeignInvalid: what the message says.
    """
    try:
        import onnx
    except ImportError as error:
        raise ForeignInvalid("onnx is not installed: pip install 'fend[classifiers]'") from error
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf, onnx and the files of its tensors each have their own
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ForeignInvalid(f"{path} is no ONNX file that can be read: {reason[0]}") from error
    module = OnnxNetwork(model, str(path))
    return module, Said(channels=module.channels, size_px=module.size_px)


class OnnxNetwork(nn.Module):
    """Images (N,C,H,W), normalised, to the file's output. A file that takes (N,H,W,C) gets that.

    Raises:
        ForeignInvalid: an operator that is not supported, or it does not take images alone.
    """

    def __init__(self, model: Any, name: str) -> None:
        super().__init__()
        import onnx

        graph, self._name = model.graph, name
        versions = {item.domain: item.version for item in model.opset_import}
        self._opset = versions.get("", versions.get("ai.onnx", 1))
        self._known: dict[str, npt.NDArray[Any]] = {
            item.name: onnx.numpy_helper.to_array(item) for item in graph.initializer
        }
        self._read_input([item for item in graph.input if item.name not in self._known])
        self._output = self._chosen([item.name for item in graph.output])
        self._held: dict[str, str] = {}
        """The known values that are tensors of this module, and under which name."""
        self._nodes = [self._read(node) for node in graph.node]
        self._fold()

    def forward(self, images: Tensor) -> Tensor:
        """Images (N,C,H,W) to the output."""
        answer = self._values(images)[self._output]
        if not isinstance(answer, Tensor):
            raise ForeignInvalid(f"{self._name}: its output does not depend on the images")
        return answer

    def _values(self, images: Tensor, *, folding: bool = False) -> dict[str, Value]:
        """All values by name but the known ones. Where it folds, what no pixel decides is an array
        of numbers."""
        values: dict[str, Value] = {
            self._input: images.permute(0, 2, 3, 1) if self._nhwc else images
        }
        for node in self._nodes:
            inputs = [values[key] if key in values else self._known.get(key) for key in node.inputs]
            outputs = self._run(node, inputs, images.shape[0], folding)
            if folding and not any(isinstance(item, Tensor) for item in inputs):
                outputs = [
                    item.numpy()
                    if isinstance(item, Tensor)
                    else item.astype(np.int64 if item.dtype == object else item.dtype)
                    for item in outputs
                ]
            values.update(zip(node.outputs, outputs, strict=False))
        return values

    @torch.no_grad()
    def _fold(self) -> None:
        """Compute what depends neither on pixels nor on the batch: it is the same for two sizes."""
        count = self._batch or 2
        first, second = (
            self._values(torch.zeros(size, self.channels, *self.size_px), folding=True)
            for size in (count, count + 1)
        )
        for name, value in first.items():
            other = second[name]
            if isinstance(value, np.ndarray) and np.array_equal(value, other):
                self._known[name] = value
        self._nodes = [
            node for node in self._nodes if not all(name in self._known for name in node.outputs)
        ]
        self(torch.zeros(count, self.channels, *self.size_px))  # finds out which tensors to hold

    def _read_input(self, inputs: Sequence[Any]) -> None:
        if len(inputs) != 1:
            names = ", ".join(item.name for item in inputs)
            raise ForeignInvalid(
                f"{self._name} takes {len(inputs)} inputs ({names}), not images alone"
            )
        tensor = inputs[0].type.tensor_type
        shape = [dim.dim_value or None for dim in tensor.shape.dim]
        if len(shape) != 4 or tensor.elem_type not in _FLOATS:
            raise ForeignInvalid(
                f"{self._name} takes {inputs[0].name} of {len(shape)} dimensions and type "
                f"{tensor.elem_type}, not images of floating-point numbers (N,C,H,W) or (N,H,W,C)"
            )
        self._input, self._batch = inputs[0].name, shape[0]
        self._nhwc = shape[1] not in (1, 3) and shape[3] in (1, 3)
        channels, height, width = (shape[3], *shape[1:3]) if self._nhwc else shape[1:]
        if channels not in (1, 3) or height is None or width is None:
            raise ForeignInvalid(
                f"{self._name} says that its input is {tuple(shape)}, in which channels (1 or 3), "
                "height or width are missing; set them with onnx.tools.update_model_dims or export "
                "it with a fixed size of images"
            )
        self.channels, self.size_px = channels, (height, width)

    def _chosen(self, outputs: Sequence[str]) -> str:
        if len(outputs) == 1 or "logits" in outputs:
            return outputs[0] if len(outputs) == 1 else "logits"
        raise ForeignInvalid(
            f"{self._name} has {len(outputs)} outputs ({', '.join(outputs)}); keep the logits alone"
        )

    def _read(self, written: Any) -> Node:
        import onnx

        attributes: dict[str, Any] = {}
        for item in written.attribute:
            value = onnx.helper.get_attribute_value(item)
            if isinstance(value, onnx.TensorProto):
                value = onnx.numpy_helper.to_array(value)
            attributes[item.name] = value.decode() if isinstance(value, bytes) else value
        kind = f"{written.domain}.{written.op_type}" if written.domain else written.op_type
        if kind.removeprefix("ai.onnx.") not in OPERATORS:
            raise ForeignInvalid(
                f"{self._name}: operator {kind} is not supported (node {written.name!r}); export "
                "the classifier without it"
            )
        return Node(
            kind.removeprefix("ai.onnx."), written.name, list(written.input), list(written.output),
            attributes, self._opset,
        )  # fmt: skip

    def _run(
        self, node: Node, inputs: list[Value | None], count: int, folding: bool
    ) -> Sequence[Value]:
        def batch(size: Any) -> Any:
            """In a file for batches of one size, that number begins the shape of any batch."""
            return count if self._batch is not None and size == self._batch else size

        bound = node.bound(inputs, _as_tensor if folding else self._tensor, batch)
        sizes = any(isinstance(item, np.ndarray) and item.dtype == object for item in inputs)
        first = inputs[0] if inputs else None
        tensor = isinstance(first, Tensor) or getattr(first, "dtype", None) == np.float32
        operators = SIZES if sizes and not tensor and node.kind in SIZES else OPERATORS
        try:
            outputs = operators[node.kind](bound)
        except Unsupported as error:
            raise ForeignInvalid(
                f"{self._name}: operator {node.kind} is not supported {error} (node {node.name!r})"
            ) from error
        except (RuntimeError, ValueError, TypeError, LookupError) as error:
            raise ForeignInvalid(
                f"{self._name}: operator {node.kind} (node {node.name!r}) fails: {error}"
            ) from error
        return outputs if isinstance(outputs, tuple | list) else [outputs]

    def _tensor(self, key: str, known: npt.NDArray[Any]) -> Tensor:
        """A known value as a tensor of this module."""
        if key not in self._known:
            return _as_tensor(key, known)
        if key not in self._held:
            name = re.sub(r"\W", "_", key) or "tensor"
            while hasattr(self, name):
                name += "_"
            tensor = _as_tensor(key, known)
            if tensor.is_floating_point():
                self.register_parameter(name, nn.Parameter(tensor))
            else:
                self.register_buffer(name, tensor)
            self._held[key] = name
        held: Tensor = getattr(self, self._held[key])
        return held


def _as_tensor(_key: str, known: npt.NDArray[Any]) -> Tensor:
    kinds = {"O": np.int64, "f": np.float32}  # half and double precision become single
    return torch.from_numpy(known.astype(kinds.get(known.dtype.kind, known.dtype), copy=True))
