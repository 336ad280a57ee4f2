"""The JSON of the Open Inference Protocol: what is sent, what is answered."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from fend.errors import Invalid

HEADER_LENGTH = "Inference-Header-Content-Length"
"""The length of the JSON in bytes, where tensors follow it; 0 where the body is one tensor."""


def protocol_invalid(message: str) -> Invalid:
    """The error of a request that is not what the protocol says it should be."""
    return Invalid(message, code="protocol_invalid", status=400)


class _Sent(BaseModel):
    model_config = ConfigDict(strict=True)  # what we do not know is ignored: the protocol grows


class _Parameters(_Sent):
    model_config = ConfigDict(extra="allow")

    def check_memory(self) -> None:
        """Raises Invalid when the values are, or should be put, in shared memory."""
        if any(name.startswith("shared_memory") for name in self.model_extra or {}):
            raise protocol_invalid(
                "there is no shared memory here: send the values of inputs in the request, and "
                "ask for outputs in the answer"
            )


class InputParameters(_Parameters):
    """How the values of an input are sent."""

    binary_data_size: Annotated[int, Field(ge=0)] | None = None


class InferInput(_Sent):
    """One input: its values are in `data`, flat or nested, or follow the JSON as bytes."""

    name: str
    datatype: str
    shape: list[Annotated[int, Field(ge=1)]] = Field(min_length=1, max_length=8)
    parameters: InputParameters = InputParameters()
    data: list[Any] | None = None


class OutputParameters(_Parameters):
    """How an output should be sent."""

    binary_data: bool | None = None
    classification: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="The most probable so many, each as value:index:label."
    )


class InferOutput(_Sent):
    """An output that is asked for."""

    name: str
    parameters: OutputParameters = OutputParameters()


class InferParameters(_Sent):
    """What holds for all outputs that do not say otherwise."""

    binary_data_output: bool = False


class InferRequest(_Sent):
    """What to infer, and which outputs to send; all of them where none is named."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "inputs": [
                        {
                            "name": "pixels",
                            "datatype": "FP32",
                            "shape": [1, 1, 28, 28],
                            "data": [0.0] * 784,
                        }
                    ],
                    "outputs": [{"name": "label"}, {"name": "probabilities"}],
                }
            ]
        }
    )

    id: str | None = None
    parameters: InferParameters = InferParameters()
    inputs: list[InferInput] = Field(min_length=1)
    outputs: list[InferOutput] = []


class OutputTensor(BaseModel):
    """One output: `data` is flat, row by row; without it the values follow the JSON as bytes."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, int] | None = None
    data: list[float] | list[int] | list[str] | None = None


class InferResponse(BaseModel):
    """The answer to all images of a request."""

    model_name: str
    model_version: str
    id: str | None = Field(default=None, description="As it was sent.")
    outputs: list[OutputTensor]


class TensorMetadata(BaseModel):
    """A tensor that a model takes or gives; -1 is the number of images."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, str] | None = Field(
        default=None, description="Other data types that the tensor may have, and what holds then."
    )


class ModelMetadata(BaseModel):
    """What a model takes and gives."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata] = Field(description="Send one of them.")
    outputs: list[TensorMetadata]


class ServerMetadata(BaseModel):
    """What this server is and which extensions it has."""

    name: str
    version: str
    extensions: list[str]


class ServerLive(BaseModel):
    """Whether the process answers."""

    live: bool


class ServerReady(BaseModel):
    """Whether every model answers."""

    ready: bool


class ModelReady(BaseModel):
    """Whether this model answers."""

    name: str
    ready: bool


class IndexEntry(BaseModel):
    """One model of the repository."""

    name: str
    version: str
    state: str
    reason: str


class InferError(BaseModel):
    """What went wrong, for people."""

    error: str


def error_docs(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that can fail with these statuses, for OpenAPI."""
    return {status: {"model": InferError} for status in statuses}
