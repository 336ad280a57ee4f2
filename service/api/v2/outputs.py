"""From the answers to the outputs that were asked for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from fastapi.responses import JSONResponse, Response

from fend.bundles import Content
from fend.errors import Invalid
from service.api.answering import Answered
from service.api.v2.binary import pack_bytes, pack_fp32, pack_int64
from service.api.v2.protocol import (
    HEADER_LENGTH,
    InferOutput,
    InferRequest,
    InferResponse,
    OutputTensor,
    TensorMetadata,
    protocol_invalid,
)


@dataclass(frozen=True)
class _Kind:
    """One output: its type, its shape for one image, and the values of one image, flat."""

    datatype: str
    shape: Callable[[Content], list[int]]
    values: Callable[[Answered], Sequence[Any]]


def _scalar(_: Content) -> list[int]:
    return []


def _classes(content: Content) -> list[int]:
    return [len(content.labels)]


def _pixels(content: Content) -> list[int]:
    return [content.input.channels, content.input.height_px, content.input.width_px]


def _index(answered: Answered) -> int:
    probabilities = answered.answer.probabilities
    return max(range(len(probabilities)), key=probabilities.__getitem__)


_KINDS: Mapping[str, _Kind] = MappingProxyType(
    {
        "label": _Kind("BYTES", _scalar, lambda a: [a.model.bundle.labels[_index(a)]]),
        "index": _Kind("INT64", _scalar, lambda a: [_index(a)]),
        "probabilities": _Kind("FP32", _classes, lambda a: a.answer.probabilities),
        "undefended_probabilities": _Kind(
            "FP32", _classes, lambda a: a.answer.undefended_probabilities or []
        ),
        "suspicion": _Kind("FP32", _scalar, lambda a: [a.answer.suspicion]),
        "denoised": _Kind("FP32", _pixels, lambda a: a.answer.denoised.flatten().tolist()),
    }
)

_PACK: Mapping[str, Callable[[Sequence[Any]], bytes]] = MappingProxyType(
    {
        "FP32": pack_fp32,
        "INT64": pack_int64,
        "BYTES": lambda values: pack_bytes(value.encode() for value in values),
    }
)


def outputs(content: Content) -> list[TensorMetadata]:
    """The outputs that a model gives."""
    return [
        TensorMetadata(name=name, datatype=kind.datatype, shape=[-1, *kind.shape(content)])
        for name, kind in _KINDS.items()
    ]


def compares(wanted: Sequence[InferOutput]) -> bool | None:
    """Whether the outputs need the answer without the denoiser; None: they do not."""
    names = {output.name for output in wanted}
    return True if not names or names & {"undefended_probabilities", "suspicion"} else None


def check_outputs(wanted: Sequence[InferOutput], content: Content) -> None:
    """Find what cannot be given before anything is computed.

    Raises:
        Invalid.
    """
    names = [output.name for output in wanted]
    if len(set(names)) < len(names):
        raise protocol_invalid("an output is asked for twice; name each once")
    for output in wanted:
        if output.name not in _KINDS:
            raise protocol_invalid(
                f"no output is called {output.name[:100]!r}; there are: {', '.join(_KINDS)}"
            )
        count = output.parameters.classification
        if count is None:
            continue
        if _KINDS[output.name].shape is not _classes:
            raise protocol_invalid(
                f"{output.name} cannot be sent as a classification; "
                "ask for that of probabilities or undefended_probabilities"
            )
        if count > len(content.labels):
            raise Invalid(
                f"classification is {count}, and the model has {len(content.labels)} labels; "
                "ask for fewer",
                code="top_k_invalid",
            )


def infer_response(request: InferRequest, answers: Sequence[Answered]) -> Response:
    """The answer to a request, as JSON, or JSON and the bytes of the tensors that follow it.

    `answers` are all of one model, and at least one.
    """
    manifest = answers[0].model.manifest
    tensors, binary = [], []
    for wanted in request.outputs or [InferOutput(name=name) for name in _KINDS]:
        tensor = _tensor(wanted, answers)
        as_bytes = wanted.parameters.binary_data
        if request.parameters.binary_data_output if as_bytes is None else as_bytes:
            data = _PACK[tensor.datatype](tensor.data or [])
            tensor.data, tensor.parameters = None, {"binary_data_size": len(data)}
            binary.append(data)
        tensors.append(tensor)
    header = InferResponse(
        model_name=manifest.name, model_version=manifest.version, id=request.id, outputs=tensors
    ).model_dump_json(exclude_none=True)
    if not binary:
        return Response(header, media_type=JSONResponse.media_type)
    encoded = header.encode()
    return Response(
        b"".join([encoded, *binary]),
        media_type="application/octet-stream",
        headers={HEADER_LENGTH: str(len(encoded))},
    )


def _tensor(wanted: InferOutput, answers: Sequence[Answered]) -> OutputTensor:
    kind, content = _KINDS[wanted.name], answers[0].model.manifest.content
    rows = [kind.values(answered) for answered in answers]
    datatype, shape = kind.datatype, kind.shape(content)
    if count := wanted.parameters.classification:
        datatype, shape = "BYTES", [count]
        rows = [_classification(row, content.labels, count) for row in rows]
    return OutputTensor(
        name=wanted.name,
        datatype=datatype,
        shape=[len(rows), *shape],
        data=[value for row in rows for value in row],
    )


def _classification(row: Sequence[float], labels: Sequence[str], count: int) -> list[str]:
    """The `count` greatest as value:index:label; on a tie the first class, as argmax has it."""
    ranked = sorted(range(len(row)), key=lambda index: -row[index])
    return [f"{np.float32(row[index])}:{index}:{labels[index]}" for index in ranked[:count]]
