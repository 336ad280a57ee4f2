"""POST /v1/classify."""

import base64
from typing import Annotated, ClassVar, Literal

from fastapi import APIRouter, Query, Request

from fend.errors import FendError
from fend.images import encode_png
from service.api.answering import Answered, Answering
from service.api.problems import problem_docs
from service.api.request_docs import picture_body
from service.api.schemas import Classification, ModelRef, Prediction, RankedLabel, Suspicion

DEFAULT_TOP_K = 5

router = APIRouter(prefix="/v1", tags=["classify"])

ModelName = Annotated[
    str | None, Query(description="Which model answers; the default one when not given.")
]


class TopKInvalid(FendError):
    """More labels are asked for than the model has."""

    code: ClassVar[str] = "top_k_invalid"


@router.post(
    "/classify",
    response_model_exclude_none=True,
    responses=problem_docs(400, 404, 413, 415, 422, 429, 503, 504),
    openapi_extra=picture_body(tensor=True),
)
async def classify(
    request: Request,
    model: ModelName = None,
    top_k: Annotated[
        int | None, Query(ge=1, description="How many labels to list, at most the model's.")
    ] = None,
    include: Annotated[
        list[Literal["denoised"]] | None, Query(description="What to add to the answer.")
    ] = None,
) -> Classification:
    """Clean one image, classify it, and say how the answer compares with the uncleaned one."""
    answering: Answering = request.app.state.answering
    classes = len(request.app.state.repository.get(model).bundle.labels)
    if top_k is not None and top_k > classes:
        raise TopKInvalid(f"top_k is {top_k}, and the model has {classes} labels; ask for fewer")
    answered = await answering.answer(request, model)
    result = _classification(answered, top_k or min(DEFAULT_TOP_K, classes))
    if include:
        pixels = answered.answer.denoised
        png = await answering.off_loop("encode", lambda: encode_png(pixels))
        result.denoised = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return result


def _classification(answered: Answered, top_k: int) -> Classification:
    manifest = answered.model.manifest
    labels = manifest.content.labels
    answer = answered.answer
    confidences, indices = answer.probabilities.topk(top_k)
    ranked = [
        RankedLabel(label=labels[index], index=index, probability=probability)
        for probability, index in zip(confidences.tolist(), indices.tolist(), strict=True)
    ]
    undefended = int(answer.undefended_probabilities.argmax())
    threshold = manifest.content.suspicion.threshold
    return Classification(
        model=ModelRef(name=manifest.name, version=manifest.version),
        label=ranked[0].label,
        index=ranked[0].index,
        confidence=ranked[0].probability,
        top_k=ranked,
        undefended=Prediction(
            label=labels[undefended],
            index=undefended,
            confidence=float(answer.undefended_probabilities[undefended]),
        ),
        suspicion=Suspicion(
            score=answer.suspicion, threshold=threshold, flagged=answer.suspicion > threshold
        ),
        input=answered.picture.report,
    )
