"""POST /v1/admin/attacks: one image attacked now, with the answers along the way."""

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import torch
from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.sse import EventSourceResponse, format_sse_event
from pydantic import BaseModel, Field, ValidationError
from torch import Tensor

from fend.client.answers import Prediction
from fend.errors import FendError, Invalid
from fend.images import encode_png
from fend.threat import ThreatModel
from service.api.problems import part_problem, problem_docs
from service.api.request_docs import picture_body
from service.api.services import services
from service.api.uploads import Picture, read_picture, read_upload, while_connected
from service.api.v1.audits import preferred
from service.api.v1.classify import ModelName
from service.inference.attacker import Attacked, Look, attacker_of
from service.inference.serving_model import ServingModel

PATH = "/v1/admin/attacks"
MAX_STEPS = 200
DEFAULT_STEPS = 20

router = APIRouter(prefix="/v1/admin", tags=["attacks"])


class Answers(BaseModel):
    """What the model says of one picture."""

    defended: Prediction = Field(description="The answer: with the denoiser.")
    undefended: Prediction = Field(description="The classifier alone.")
    label_defended: float = Field(description="Probability of the right label, with the denoiser.")
    label_undefended: float = Field(description="The same of the classifier alone.")


class StepAnswers(Answers):
    """What it says while the attack changes the picture."""

    passes: int = Field(description="Times that the attack has asked the model so far.")


class Pictures(BaseModel):
    """PNGs as data URLs, in the size that the model takes."""

    clean: str
    adversarial: str
    perturbation: str = Field(description="What was added, with epsilon as full black and white.")
    denoised: str = Field(description="The adversarial picture as the classifier sees it.")
    clean_denoised: str


class AttackAnswer(BaseModel):
    """What an attack did to one picture."""

    model: str
    attack: Literal["fgsm", "pgd", "apgd"]
    knowledge: Literal["white_box", "grey_box"]
    threat: ThreatModel
    steps: int
    label: str = Field(description="The label that the attack drives away from.")
    index: int
    clean: Answers
    adversarial: Answers
    holds: bool = Field(description="Whether the pipeline still gives the label.")
    undefended_holds: bool = Field(description="Whether the classifier alone does.")
    distance: float
    forward_passes: int
    backward_passes: int
    duration_s: float
    along: list[StepAnswers]
    pictures: Pictures


@router.post(
    "/attacks",
    response_model=AttackAnswer,
    responses={
        200: {"content": {EventSourceResponse.media_type: {"schema": {"type": "string"}}}},
        **problem_docs(400, 401, 404, 408, 413, 415, 422, 429, 503, 504),
    },
    openapi_extra=picture_body(tensor=True),
)
async def attack_image(
    request: Request,
    model: ModelName = None,
    attack: Annotated[Literal["fgsm", "pgd", "apgd"], Query()] = "pgd",
    epsilon: Annotated[
        str | None,
        Query(description='A number on the scale of pixels, 0 to 1, or such as "8/255".'),
    ] = None,
    steps: Annotated[int, Query(ge=1, le=MAX_STEPS)] = DEFAULT_STEPS,
    knowledge: Annotated[
        Literal["white_box", "grey_box"],
        Query(description="grey_box attackers know the classifier and not the denoiser."),
    ] = "white_box",
    label: Annotated[
        str | None, Query(description="The right label; default: the model's own answer.")
    ] = None,
    accept: Annotated[str, Header()] = "",
) -> Response:
    """Attack one picture now (L-inf). With `Accept: text/event-stream` the answers along the way
    come as events `step`, then `end` or `problem`."""
    services_ = services(request)
    served = services_.repository.get(model)
    threat = _threat(epsilon, served)
    index = _index(label, served)
    timeout_s = services_.answering.timeout_s(request, served)
    upload = await read_upload(request)
    services_.attacker.check_room()
    spec, limits = served.manifest.content.input, services_.answering.limits
    picture = await services_.answering.run_in_decoder(
        served, "decode", lambda: read_picture(upload, spec, limits)
    )
    started_s = time.monotonic()

    async def work(on_look: Any = lambda _: None) -> AttackAnswer:
        with services_.attacker.admission():
            attacked = await services_.attacker.attack(
                served.bundle,
                picture.pixels,
                attacker_of(attack, steps),
                threat,
                started_s + timeout_s,
                through_denoiser=knowledge == "white_box",
                label=index,
                on_look=on_look,
            )
        return await asyncio.to_thread(
            _answer, served, picture, attacked,
            attack=attack, knowledge=knowledge, threat=threat,
            steps=1 if attack == "fgsm" else steps, duration_s=time.monotonic() - started_s,
        )  # fmt: skip

    if preferred(accept, ["application/json", EventSourceResponse.media_type]) == (
        EventSourceResponse.media_type
    ):
        return EventSourceResponse(_events(request, served, work, index))
    answer = await while_connected(request, work())
    return Response(answer.model_dump_json(), media_type="application/json")


async def _events(
    request: Request, served: ServingModel, work: Any, index: int | None
) -> AsyncIterator[bytes]:
    """The answers along the way, then the whole answer. A caller who leaves ends the attack."""
    loop, looks = asyncio.get_running_loop(), asyncio.Queue[Look | None]()

    def on_look(look: Look) -> None:
        loop.call_soon_threadsafe(looks.put_nowait, look)

    working = asyncio.ensure_future(work(on_look))
    working.add_done_callback(lambda _: looks.put_nowait(None))
    try:
        first: Look | None = None
        while (look := await looks.get()) is not None:
            first = first or look
            label = index if index is not None else _best(first.probabilities)
            step = _step(served, look, label)
            yield format_sse_event(event="step", data_str=step.model_dump_json())
        yield format_sse_event(event="end", data_str=working.result().model_dump_json())
    except FendError as error:
        problem = part_problem(request.scope, error)
        yield format_sse_event(event="problem", data_str=problem.model_dump_json())
    finally:
        working.cancel()


def _threat(epsilon: str | None, served: ServingModel) -> ThreatModel:
    """Threat model in L-inf; raises Invalid for what is no epsilon."""
    if epsilon is None:
        grey = served.manifest.content.input.channels == 1
        return ThreatModel(epsilon=0.2 if grey else 8 / 255)
    try:
        threat = ThreatModel.model_validate({"epsilon": epsilon})
        reason = threat.refusal(threat.epsilon)
        if reason is None:
            return threat
        raise Invalid(f"epsilon: {reason}", code="request_invalid")
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise Invalid(f"epsilon is {epsilon[:40]!r}: {reason}", code="request_invalid") from error


def _index(label: str | None, served: ServingModel) -> int | None:
    labels = served.manifest.content.labels
    if label is None:
        return None
    if label not in labels:
        raise Invalid(
            f"the model has no label {label[:80]!r}; GET /v1/models/{served.manifest.name} lists "
            "them",
            code="request_invalid",
        )
    return labels.index(label)


def _best(probabilities: list[float]) -> int:
    return max(range(len(probabilities)), key=probabilities.__getitem__)


def _answers(served: ServingModel, look: Look, label: int) -> dict[str, Any]:
    names = served.manifest.content.labels

    def prediction(probabilities: list[float]) -> Prediction:
        best = _best(probabilities)
        return Prediction(label=names[best], index=best, confidence=probabilities[best])

    return {
        "defended": prediction(look.probabilities),
        "undefended": prediction(look.undefended_probabilities),
        "label_defended": look.probabilities[label],
        "label_undefended": look.undefended_probabilities[label],
    }


def _step(served: ServingModel, look: Look, label: int) -> StepAnswers:
    return StepAnswers(**_answers(served, look, label), passes=look.passes)


def _answer(
    served: ServingModel, picture: Picture, attacked: Attacked, **settings: Any
) -> AttackAnswer:
    threat: ThreatModel = settings["threat"]
    label, names = attacked.label, served.manifest.content.labels
    delta = attacked.image - picture.pixels
    shown = (0.5 + delta / (2 * threat.epsilon)) if threat.epsilon else torch.full_like(delta, 0.5)
    with torch.no_grad():
        device = next(served.bundle.defence.parameters()).device
        clean_denoised = served.bundle.defence.denoiser(picture.pixels.unsqueeze(0).to(device))[0]
    clean = Answers(**_answers(served, attacked.clean, label))
    adversarial = Answers(**_answers(served, attacked.after, label))
    return AttackAnswer(
        model=served.manifest.name,
        label=names[label],
        index=label,
        clean=clean,
        adversarial=adversarial,
        holds=adversarial.defended.index == label,
        undefended_holds=adversarial.undefended.index == label,
        distance=attacked.distance,
        forward_passes=attacked.forward_passes,
        backward_passes=attacked.backward_passes,
        along=[_step(served, look, label) for look in attacked.along],
        pictures=Pictures(
            clean=_png(picture.pixels),
            adversarial=_png(attacked.image),
            perturbation=_png(shown),
            denoised=_png(attacked.denoised),
            clean_denoised=_png(clean_denoised),
        ),
        **settings,
    )


def _png(pixels: Tensor) -> str:
    return f"data:image/png;base64,{base64.b64encode(encode_png(pixels.clamp(0, 1))).decode()}"
