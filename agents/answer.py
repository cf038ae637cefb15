"""The response object. Source: https://platform.openai.com/docs/api-reference/responses/object."""

import time
from typing import Any

from agents.items import Item
from agents.request import CreateResponse
from tidegate.errors import TidegateError


class Usage:
    """Tokens of all model calls of a run."""

    def __init__(self) -> None:
        self.input_tokens = self.cached_tokens = self.output_tokens = 0

    def add(self, found: Any) -> None:
        """Adds what LangChain reports of one call; nothing where nothing was reported."""
        if not found:
            return
        self.input_tokens += int(found.get("input_tokens") or 0)
        self.output_tokens += int(found.get("output_tokens") or 0)
        self.cached_tokens += int((found.get("input_token_details") or {}).get("cache_read") or 0)

    def shown(self) -> dict[str, Any]:
        """OpenAI's usage object."""
        return {
            "input_tokens": self.input_tokens,
            "input_tokens_details": {"cached_tokens": self.cached_tokens},
            "output_tokens": self.output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": self.input_tokens + self.output_tokens,
        }


class Answer:
    """One response, from its creation to its end."""

    def __init__(self, response_id: str, request: CreateResponse, *, kept: bool) -> None:
        self.response_id = response_id
        self.request = request
        self.kept = kept
        self.created_at = time.time()
        self.status = "in_progress"
        self.incomplete_reason: str | None = None
        self.error: TidegateError | None = None
        self.usage: Usage | None = None

    def shown(self, output: list[Item]) -> dict[str, Any]:
        """The object as it is now."""
        request = self.request
        return {
            "id": self.response_id,
            "object": "response",
            "created_at": int(self.created_at),
            "status": self.status,
            "background": False,
            "error": {"code": self.error.error_code, "message": self.error.message} if self.error else None,
            "incomplete_details": {"reason": self.incomplete_reason} if self.incomplete_reason else None,
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "max_tool_calls": request.max_tool_calls,
            "model": request.model,
            "output": output,
            "parallel_tool_calls": request.parallel_tool_calls is not False,
            "previous_response_id": request.previous_response_id,
            "prompt_cache_key": None,
            "reasoning": {"effort": None, "summary": None},
            "safety_identifier": None,
            "service_tier": "default",
            "store": self.kept,
            "temperature": 1.0 if request.temperature is None else request.temperature,
            "text": {"format": {"type": "text"}},
            "tool_choice": request.tool_choice or "auto",
            "tools": request.tools,
            "top_logprobs": 0,
            "top_p": 1.0 if request.top_p is None else request.top_p,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "truncation": "disabled",
            "usage": self.usage.shown() if self.usage else None,
            "user": request.user,
            "metadata": request.metadata or {},
        }
