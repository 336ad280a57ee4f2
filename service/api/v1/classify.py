"""POST /v1/classify."""

import base64
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, ValidationError

from fend.client.answers import DEFAULT_TOP_K, Certified, Classification, classification
from fend.errors import Invalid
from fend.guarantees.smoothing import sigma_of
from fend.images import encode_png
from service.api.answering import Answered, Answering, server_timing
from service.api.problems import problem_docs
from service.api.request_docs import picture_body
from service.api.services import services
from service.api.uploads import while_connected

router = APIRouter(prefix="/v1", tags=["classify"])

ModelName = Annotated[
    str | None, Query(description="Which model answers; the default one when not given.")
]

TopK = Annotated[
    int | None, Query(ge=1, description="How many labels to list, at most the model's.")
]
Include = Annotated[
    list[Literal["denoised", "seen"]] | None, Query(description="What to add to the answer.")
]


COMPARE = (
    "Also answer without the denoiser, for `undefended` and `suspicion`, which takes another pass "
    "of the classifier. Not given: as the service is set, usually true."
)


class ClassifyQuery(BaseModel):
    """The query of /v1/classify. Validated as a whole: FastAPI takes each parameter by itself,
    which costs a tenth of an answer."""

    model: ModelName = None
    top_k: TopK = None
    include: Include = None
    compare: bool | None = Field(default=None, description=COMPARE)
    certify: bool = Field(
        default=False,
        description="Also say up to which L2 distance the answer provably holds. Takes a thousand "
        "passes of the model and more, when nothing else wants the processor.",
    )

    @classmethod
    def documented(cls) -> dict[str, Any]:
        """Its parameters for OpenAPI."""
        schemas = cls.model_json_schema()["properties"].items()
        return {
            "parameters": [
                {"name": name, "in": "query", "required": False,
                 "description": schema.pop("description", ""), "schema": schema}
                for name, schema in schemas
            ]
        }  # fmt: skip


ASKS_FOR_NOTHING = ClassifyQuery()


@router.post(
    "/classify",
    response_model=Classification,
    responses=problem_docs(400, 404, 413, 415, 422, 429, 503, 504),
    openapi_extra=picture_body(tensor=True) | ClassifyQuery.documented(),
)
async def classify(request: Request) -> Response:
    """Clean one image, classify it, and say how the answer compares with the uncleaned one."""
    answering, query = services(request).answering, _query(request)
    model = query.model
    wanted = labels_wanted(request, model, query.top_k)
    certified = None
    if query.certify:
        answered, certified = await _certified(request, answering, model, query.compare)
    else:
        answered = await answering.answer(request, model, query.compare)
    answer = await classified(answering, answered, wanted, query.include or [], certified)
    return json_response(answer, [answered])


def _query(request: Request) -> ClassifyQuery:
    query = request.query_params
    if not query:
        return ASKS_FOR_NOTHING
    given: dict[str, Any] = {
        name: query[name] for name in ClassifyQuery.model_fields if name in query
    }
    if "include" in given:
        given["include"] = query.getlist("include")
    try:
        return ClassifyQuery.model_validate(given)
    except ValidationError as error:
        errors = [{**item, "loc": ("query", *item["loc"])} for item in error.errors()]
        raise RequestValidationError(errors) from error


def json_response(answer: BaseModel, answered: Sequence[Answered]) -> Response:
    """`answer` as bytes: FastAPI would validate it once more."""
    return Response(
        answer.model_dump_json(exclude_none=True),
        headers={"Server-Timing": server_timing([each.timing for each in answered])},
        media_type="application/json",
    )


async def _certified(
    request: Request, answering: Answering, model: str | None, compare: bool | None
) -> tuple[Answered, Certified]:
    """The answer and its certificate; refused before anything is computed where it cannot be."""
    certifier = services(request).certifier
    sigma_of(services(request).repository.get(model).manifest)
    with certifier.admission():
        answered = await answering.answer(request, model, compare)
        work = certifier.certify(
            answered.model.bundle, answered.picture.pixels, answered.deadline_s
        )
        return answered, await while_connected(request, work)


def labels_wanted(request: Request, model: str | None, top_k: int | None) -> int:
    """How many labels the answer lists.

    Raises:
        NotFound, Unavailable, Invalid.
    """
    classes = len(services(request).repository.get(model).bundle.labels)
    if top_k is not None and top_k > classes:
        raise Invalid(
            f"top_k is {top_k}, and the model has {classes} labels; ask for fewer",
            code="top_k_invalid",
        )
    return top_k or min(DEFAULT_TOP_K, classes)


async def classified(
    answering: Answering,
    answered: Answered,
    top_k: int,
    include: Sequence[str] = (),
    certified: Certified | None = None,
) -> Classification:
    """What is sent for an answer, with the pictures that `include` names."""
    model, answer = answered.model, answered.answer
    pictures = {"denoised": answer.denoised, "seen": answered.picture.pixels}
    urls: dict[str, str] = {}
    for name in dict.fromkeys(include):
        pixels = pictures[name]
        png = await answering.run_in_decoder(model, "encode", partial(encode_png, pixels))
        urls[name] = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return classification(
        model.manifest,
        answer.probabilities,
        answer.undefended_probabilities,
        answer.suspicion,
        answered.picture.report,
        top_k,
        urls.get("denoised"),
        certified,
        urls.get("seen"),
    )
