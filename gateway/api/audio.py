"""`POST /v1/audio/transcriptions` and `/v1/audio/translations`: forms with a sound file, passed on as they come.

Source: https://platform.openai.com/docs/api-reference/audio.
"""

from typing import Any

from gateway.api.schemas import ERROR, error_responses
from gateway.dialects.openai import Heard
from gateway.exchange import Operation

_FORM = {
    "type": "object",
    "required": ["file", "model"],
    "properties": {
        "model": {"type": "string"},
        "file": {"type": "string", "format": "binary"},
        "response_format": {"type": "string", "enum": ["json", "text", "srt", "verbose_json", "vtt"]},
        "prompt": {"type": "string"},
        "stream": {"type": "boolean"},
    },
    "additionalProperties": True,
}
TRANSCRIPTIONS = Operation("transcription", Heard(), generates=True, upload=True)
TRANSLATIONS = Operation("translation", Heard(), generates=True, upload=True)
OPENAPI: dict[str, Any] = {
    "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}},
    "responses": {
        "200": {
            "description": "What was heard, or its pieces as server-sent events",
            "content": {
                "application/json": {"schema": {"type": "object"}},
                "text/plain": {"schema": {"type": "string"}},
                "text/event-stream": {"schema": {"type": "string"}},
            },
        },
        **error_responses(ERROR),
    },
}
