"""What the routes that take a version have in common: the form, its declared size, the manifest."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from mindprint.types import Manifest
from mindprint_server.api import multipart
from mindprint_server.api.errors import ApiError
from mindprint_server.bounded_json import JsonRefused, parse_json
from mindprint_server.exceptions import Invalid
from mindprint_server.settings import AdapterSettings

FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": list(multipart.PARTS),
                    "additionalProperties": False,
                    "properties": {
                        "manifest": {"type": "string", "description": "JSON of a Manifest"},
                        "config": {"type": "string", "format": "binary", "description": "adapter_config.json"},
                        "weights": {"type": "string", "format": "binary", "description": "adapter_model.safetensors"},
                    },
                }
            }
        },
    }
}
"""The `openapi_extra` of a route that takes a version."""


def declared_size(request: Request, most: int) -> int:
    """Return the bytes that a body says it has. One that does not say it counts as the largest."""
    declared = request.headers.get("content-length", "")
    return min(int(declared), most) if declared.isdecimal() else most


def parse_manifest(text: bytes, settings: AdapterSettings) -> Manifest:
    """Parse the manifest of an upload.

    Raises:
        ApiError: It is no JSON.
        Invalid: It is nested too deeply, or has too many keys.
        RequestValidationError: A field is missing, unknown or wrong.
    """
    bounds = {"max_depth": settings.max_upload_json_depth, "max_keys": settings.max_manifest_keys}
    try:
        return Manifest.model_validate(parse_json(text, **bounds))
    except JsonRefused as error:
        if error.is_syntax:
            raise ApiError(
                400, "invalid_json", f"the manifest {error.problem}: send one JSON document in UTF-8"
            ) from None
        where = f"manifest.{error.path}" if error.path else "manifest"
        message = f"{where} {error.problem}: send the manifest that the trainer wrote"
        raise Invalid("invalid_manifest", message, param=where) from None
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        raise RequestValidationError([{**one, "loc": ("body", "manifest", *one["loc"])} for one in details]) from None
