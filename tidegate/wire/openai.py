"""The few OpenAI structs the gateway acts on; every other field travels as the bytes it came in.

Source: https://platform.openai.com/docs/api-reference/chat and vLLM's extensions of it.
"""

from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import astuple


class StreamOptions(Struct):
    """`stream_options` of a request."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class GenerateRequest(Struct):
    """What we read of a chat completion or completion request."""

    model: str
    stream: bool | UnsetType | None = UNSET
    stream_options: StreamOptions | UnsetType | None = UNSET
    n: int | UnsetType | None = UNSET
    prompt: msgspec.Raw | UnsetType = UNSET
    input: msgspec.Raw | UnsetType = UNSET
    prompt_embeds: msgspec.Raw | UnsetType = UNSET
    priority: msgspec.Raw | UnsetType = UNSET
    cache_salt: msgspec.Raw | UnsetType = UNSET
    kv_transfer_params: msgspec.Raw | UnsetType = UNSET
    vllm_xargs: msgspec.Raw | UnsetType = UNSET
    request_id: msgspec.Raw | UnsetType = UNSET
    session_id: msgspec.Raw | UnsetType = UNSET
    chat_template: msgspec.Raw | UnsetType = UNSET
    mm_processor_kwargs: msgspec.Raw | UnsetType = UNSET
    media_io_kwargs: msgspec.Raw | UnsetType = UNSET
    ec_transfer_params: msgspec.Raw | UnsetType = UNSET
    top_k: msgspec.Raw | UnsetType = UNSET
    seed: msgspec.Raw | UnsetType = UNSET
    max_tokens: msgspec.Raw | UnsetType = UNSET
    max_completion_tokens: msgspec.Raw | UnsetType = UNSET
    min_tokens: msgspec.Raw | UnsetType = UNSET
    return_token_ids: bool | UnsetType | None = UNSET
    return_tokens_as_token_ids: bool | UnsetType | None = UNSET
    echo: msgspec.Raw | UnsetType = UNSET
    prompt_logprobs: msgspec.Raw | UnsetType = UNSET
    return_prompt_text: msgspec.Raw | UnsetType = UNSET

    @property
    def uses_rare_fields(self) -> bool:
        """Whether any field beyond `ALWAYS_LOOKED_AT` is set, which is seldom."""
        unset = (self.stream is UNSET) + (self.stream_options is UNSET) + (self.max_tokens is UNSET)
        return astuple(self).count(UNSET) < len(RARE_FIELDS) + unset

    def rare_fields(self) -> list[str]:
        """Names of the fields beyond `ALWAYS_LOOKED_AT` that are set."""
        return [name for name in RARE_FIELDS if getattr(self, name) is not UNSET]


ALWAYS_LOOKED_AT = ("model", "stream", "stream_options", "max_tokens", "messages")
TEXT_MEMBERS = ("text", "refusal", "thinking")
"""Members of a content part that the model reads as text; of several the first counts."""
RARE_FIELDS = tuple(name for name in GenerateRequest.__struct_fields__ if name not in ALWAYS_LOOKED_AT)


class PromptTokensDetails(Struct):
    """`usage.prompt_tokens_details`."""

    cached_tokens: int | None = 0


class WireUsage(Struct):
    """`usage` of an answer or of a stream's last chunk; rerankers may give the total alone."""

    prompt_tokens: int | None = None
    total_tokens: int | None = 0
    completion_tokens: int | None = 0
    prompt_tokens_details: PromptTokensDetails | None = None


class Answer(Struct):
    """What we read of a non-streamed answer when no guardrail needs its text."""

    usage: WireUsage | None = None


class ChunkChoice(Struct):
    """One choice of a stream chunk; `delta` for chat, `text` for completions."""

    index: int = 0
    delta: dict[str, Any] | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: dict[str, Any] | None = None


class Chunk(Struct):
    """What we read of a stream chunk."""

    choices: list[ChunkChoice] = []
    usage: WireUsage | None = None
    error: msgspec.Raw | UnsetType = UNSET


class ChunkHead(Struct):
    """What the chunks of one stream have in common."""

    id: str = ""
    created: int = 0
    model: str = ""


UNREADABLE = (ValueError, RecursionError)
"""What decoding or encoding raises where bytes are no JSON, no UTF-8, of another form, or nested too deeply."""

decode_head = msgspec.json.Decoder(ChunkHead).decode
decode_request = msgspec.json.Decoder(GenerateRequest).decode
decode_answer = msgspec.json.Decoder(Answer).decode
decode_chunk = msgspec.json.Decoder(Chunk).decode
decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
"""Top-level fields, each as its own bytes."""
decode_object = msgspec.json.Decoder(dict[str, Any]).decode
decode_any = msgspec.json.Decoder().decode
encode = msgspec.json.encode
