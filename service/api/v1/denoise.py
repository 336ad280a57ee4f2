"""POST /v1/denoise."""

from fastapi import APIRouter, Request, Response

from fend.images import encode_png
from service.api.answering import server_timing
from service.api.problems import problem_docs
from service.api.request_docs import picture_body
from service.api.services import services
from service.api.v1.classify import ModelName

router = APIRouter(prefix="/v1", tags=["classify"])


@router.post(
    "/denoise",
    response_class=Response,
    responses={
        200: {
            "description": "The cleaned image, in the size that the model takes.",
            "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
        },
        **problem_docs(400, 404, 413, 415, 422, 429, 503, 504),
    },
    openapi_extra=picture_body(tensor=True),
)
async def denoise(request: Request, model: ModelName = None) -> Response:
    """The image as the classifier sees it behind the denoiser."""
    answering = services(request).answering
    answered = await answering.answer(request, model, compare=False)
    pixels = answered.answer.denoised
    png = await answering.run_in_decoder(answered.model, "encode", lambda: encode_png(pixels))
    headers = {"Server-Timing": server_timing([answered.timing])}
    return Response(png, media_type="image/png", headers=headers)
