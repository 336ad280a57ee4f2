"""A model's forward pass compiled by OpenVINO, several times as fast on a CPU as torch's.

In float32, as the audits attack it, and compared with the model as the other graphs are.
"""

import sys
import warnings
from functools import cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from typing import Any

import torch
from torch import Tensor

from service.inference.frozen_graph import (
    Forward,
    GraphDisagrees,
    Outputs,
    Served,
    Spread,
    Tensors,
    checked,
    samples,
)


def version() -> str | None:
    """Of OpenVINO; None where it is not installed."""
    try:
        return version_of("openvino")
    except PackageNotFoundError:
        return None


@torch.inference_mode()
def compiled(served: Served, image: Tensor) -> Spread:
    """`served` for images of the shape of `image` (C,H,W), compiled for each number of threads.

    Raises:
        GraphDisagrees: it cannot be converted; and of what is returned: it answers otherwise.
    """
    openvino = _openvino()
    core = openvino.Core()
    images = samples(image)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is deprecated; constants that are meant
            traced = torch.jit.trace(  # type: ignore[no-untyped-call]
                Tensors(served).eval(), images, check_trace=False
            )
            model = openvino.convert_model(traced, input=[(-1, *image.shape)])
    except Exception as error:  # its kinds have nothing in common; the next engine takes the model
        raise GraphDisagrees(f"it cannot be converted: {_line(error)}") from error

    @cache
    def over(threads: int) -> Forward:
        options = {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_HYPER_THREADING": True,  # a thread is one of those that the process may use
            "ENABLE_CPU_PINNING": False,  # others need the cores, too
        }
        try:
            graph = core.compile_model(model, "CPU", options)
        except RuntimeError as error:
            raise GraphDisagrees(f"it cannot be compiled: {_line(error)}") from error

        def run(images: Tensor) -> Outputs:
            found = graph(images.numpy(), share_inputs=True)
            return Outputs(*(torch.from_numpy(found[place]) for place in range(len(found))))

        return checked(run, served, image)

    return over


def _openvino() -> Any:
    """The module, without its part that reports each import and conversion to its makers over the
    network."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino  # takes a second, and need not be there

    return openvino


def _line(error: Exception) -> str:
    """The last line of its message: those before say where in the library it was raised."""
    return str(error).strip().rpartition("\n")[2] or type(error).__name__
