"""How OpenAPI describes the bodies that a picture can come in."""

from typing import Any

from service.api.uploads import ANY_TYPE, IMAGE_TYPES

_BINARY = {"type": "string", "format": "binary"}


def picture_body(*, tensor: bool) -> dict[str, Any]:
    """The `openapi_extra` of a route that takes one picture."""
    content: dict[str, Any] = {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {"file": _BINARY | {"description": "The image file."}},
            }
        }
    }
    content |= {media_type: {"schema": _BINARY} for media_type in (*IMAGE_TYPES, ANY_TYPE)}
    if tensor:
        grey = {"type": "array", "items": {"type": "array", "items": {"type": "number"}}}
        content["application/json"] = {
            "schema": {
                "type": "object",
                "required": ["pixels"],
                "properties": {
                    "pixels": {
                        "description": "Rows of a grey image, or one list of rows a channel; "
                        "numbers in [0, 1] in the size that the model takes.",
                        "anyOf": [grey, {"type": "array", "items": grey}],
                    }
                },
            },
            "example": {"pixels": [[0.0] * 28 for _ in range(28)]},
        }
    return {"requestBody": {"required": True, "content": content}}


def pictures_body() -> dict[str, Any]:
    """The `openapi_extra` of a route that takes many pictures."""
    files = {"type": "array", "minItems": 1, "items": _BINARY, "description": "The image files."}
    schema = {"type": "object", "required": ["file"], "properties": {"file": files}}
    content = {"multipart/form-data": {"schema": schema}}
    return {"requestBody": {"required": True, "content": content}}
