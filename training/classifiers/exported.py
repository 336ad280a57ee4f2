"""A classifier from a .pt2 file, which torch.export.save wrote.

Reading one runs expressions from the file and unpickles its constants, as any code of the user's:
here, and never from a bundle.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from fend.errors import Invalid
from fend.models import build
from fend.models.graph import INPUT
from training.classifiers.graph import Config, written
from training.classifiers.said import ForeignInvalid, Said

TOLERANCE = 1e-4
_BATCH = "batch_of_the_images"
_RESHAPES = ("view", "_unsafe_view", "reshape", "expand", "repeat", "full", "zeros", "ones")


def open_exported(path: Path) -> tuple[nn.Module, Said]:
    """`FILE.pt2`; the size of its input is known from the file.

    Raises:
        ForeignInvalid: what the message says.
    """
    try:
        program = torch.export.load(path)
    except Exception as error:  # torch.export.load raises whatever the file makes it stumble over
        raise ForeignInvalid(
            f"{path} is no file of torch.export.save that this torch ({torch.__version__}) reads: "
            f"{error}"
        ) from error
    try:
        config, tensors = written(program, INPUT)
        shape = _shape(program)
        if isinstance(shape[0], int):
            config = _of_any_batch(config, shape[0])
        module = build("graph", config)
    except Invalid as error:
        raise ForeignInvalid(f"{path}: {error}") from error
    module.load_state_dict(tensors)
    example = torch.rand([size if isinstance(size, int) else 2 for size in shape])
    with torch.no_grad():
        answers, again = program.module()(example), module(example)
    if not torch.allclose(answers, again, atol=TOLERANCE, rtol=TOLERANCE):
        raise ForeignInvalid(f"{path}: read as a graph it gives other answers")
    return module, Said(channels=int(shape[1]), size_px=(int(shape[2]), int(shape[3])))


def _shape(program: ExportedProgram) -> list[Any]:
    """(N,C,H,W) of the input; N is an int where the program takes batches of that size alone."""
    (name,) = (
        spec.arg.name
        for spec in program.graph_signature.input_specs
        if spec.kind is InputKind.USER_INPUT
    )
    (node,) = (node for node in program.graph.nodes if node.name == name)
    images = node.meta["val"]
    if not isinstance(images, Tensor) or images.dim() != 4 or images.dtype != torch.float32:
        raise Invalid(
            f"it takes {getattr(images, 'dtype', images)} of shape {tuple(images.shape)}; a "
            "classifier takes float32 images (N,C,H,W)",
            code="graph_impossible",
        )
    return list(images.shape)


def _of_any_batch(config: Config, batch: int) -> Config:
    """The graph of a program for batches of `batch`, for batches of any size: where the first size
    of what depends on the images is that number, it is the size of the batch."""
    size = {"name": _BATCH, "op": "aten.sym_size.int", "args": [{"value": INPUT}, 0], "kwargs": {}}
    images, steps = {INPUT}, [size]
    for step in config["steps"]:
        packet, args = step["op"].split(".")[1], list(step["args"])
        if images.intersection(_values(args)):
            images.add(step["name"])
        sizes = 0 if packet in ("full", "zeros", "ones") else 1
        of_images = step["name"] in images or packet in ("expand", "repeat")
        if packet in _RESHAPES and of_images and len(args) > sizes and args[sizes][:1] == [batch]:
            args[sizes] = [{"value": _BATCH}, *args[sizes][1:]]
        steps.append(step | {"args": args})
    return config | {"steps": steps}


def _values(written: Any) -> list[str]:
    if isinstance(written, list):
        return [name for item in written for name in _values(item)]
    return [written["value"]] if isinstance(written, dict) and "value" in written else []
