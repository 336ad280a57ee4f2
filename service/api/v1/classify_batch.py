"""POST /v1/classify/batch: many images in one request, one outcome for each."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from fend.client.answers import Classification
from fend.errors import FendError
from service.api.answering import Answered
from service.api.problems import Problem, part_problem, problem_docs
from service.api.request_docs import pictures_body
from service.api.services import services
from service.api.v1.classify import (
    COMPARE,
    Include,
    ModelName,
    TopK,
    classified,
    json_response,
    labels_wanted,
)

router = APIRouter(prefix="/v1", tags=["classify"])


class Outcome(BaseModel):
    """The answer to one image, or why there is none."""

    result: Classification | None = None
    problem: Problem | None = None


class Outcomes(BaseModel):
    """One outcome for each image, in the order of the parts."""

    outcomes: list[Outcome] = Field(description="As many as there were parts called file.")


@router.post(
    "/classify/batch",
    response_model=Outcomes,
    responses=problem_docs(400, 404, 413, 415, 422, 429, 503),
    openapi_extra=pictures_body(),
)
async def classify_batch(
    request: Request,
    model: ModelName = None,
    top_k: TopK = None,
    include: Include = None,
    compare: Annotated[bool | None, Query(description=COMPARE)] = None,
) -> Response:
    """Clean and classify many images. Each gets the answer, or the problem, it would get alone."""
    answering = services(request).answering
    wanted = labels_wanted(request, model, top_k)

    async def outcome(answered: Answered | FendError) -> Outcome:
        if isinstance(answered, FendError):
            return Outcome(problem=part_problem(request.scope, answered))
        result = await classified(answering, answered, wanted, include or [])
        return Outcome(result=result)

    answers = await answering.answer_all(request, model, compare)
    outcomes = Outcomes(outcomes=[await outcome(answered) for answered in answers])
    return json_response(outcomes, [each for each in answers if isinstance(each, Answered)])
