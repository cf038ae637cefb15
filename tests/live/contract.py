"""What clients do, as cases that are run directly against vLLM and through the gateway: the verdicts must be the same.

A case returns what it saw; texts are replaced by their types, since two runs of a model may say different words, and
cut their tokens into chunks differently.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from anthropic import Anthropic, AnthropicError, AsyncAnthropic
from openai import AsyncOpenAI, OpenAI, OpenAIError
from pydantic import BaseModel

HI: list[Any] = [{"role": "user", "content": "Name a colour."}]
MODEL = "smollm2"
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL: Any = {"type": "function", "function": {"name": "weather", "strict": True, "parameters": PARAMETERS}}
GREEDY = {"temperature": 0}
"""As a body's field: the client has no argument of that name."""
CLAUDE_TOOL: Any = {"name": "weather", "input_schema": PARAMETERS, "strict": True}


class Colour(BaseModel):
    """For `parse`."""

    name: str


def shape(value: Any) -> Any:
    """Names and types, not values; where a model's words are names, only that they are."""
    if isinstance(value, BaseModel):
        value = value.model_dump()
    if isinstance(value, dict):
        return {key: "words" if key == "top_logprobs" else shape(item) for key, item in sorted(value.items())}
    if isinstance(value, list | tuple):
        return [shape(value[0])] if value else []
    return type(value).__name__


def verdict(run: Callable[[], Any]) -> Any:
    """What a case saw, or how it failed."""
    try:
        return run()
    except (OpenAIError, AnthropicError) as error:
        body = getattr(error, "body", None)
        return [type(error).__name__, getattr(error, "status_code", None), shape(body)]


def _ask(client: OpenAI, **more: Any) -> Any:
    return client.chat.completions.create(model=MODEL, messages=HI, **{"max_tokens": 6, "temperature": 0, **more})


def whole(client: OpenAI) -> Any:
    """A chat completion."""
    return shape(_ask(client))


def raw(client: OpenAI) -> Any:
    """Status and content type behind it."""
    answer = client.chat.completions.with_raw_response.create(model=MODEL, messages=HI, max_tokens=2, temperature=0)
    return [answer.status_code, answer.headers["content-type"], shape(answer.parse())]


def extensions(client: OpenAI) -> Any:
    """Fields of vLLM's own."""
    return shape(_ask(client, extra_body={"top_k": 5, "min_tokens": 3, "repetition_penalty": 1.1}))


def logprobs(client: OpenAI) -> Any:
    """Log probabilities."""
    return shape(_ask(client, logprobs=True, top_logprobs=2))


def several(client: OpenAI) -> Any:
    """Two choices."""
    answer = _ask(client, n=2, temperature=0.8)
    return [sorted(choice.index for choice in answer.choices), shape(answer)]


def stopped(client: OpenAI) -> Any:
    """A stop string."""
    return _ask(client, stop=["e"], max_tokens=60).choices[0].finish_reason


def tool(client: OpenAI) -> Any:
    """A forced tool call."""
    choice = _ask(client, tools=[TOOL], tool_choice="required", max_tokens=60).choices[0]
    return [choice.finish_reason, shape(choice.message), [call.function.name for call in choice.message.tool_calls]]


def parsed(client: OpenAI) -> Any:
    """`parse` with a model of the caller's."""
    answer = client.chat.completions.parse(
        model=MODEL, messages=HI, response_format=Colour, max_tokens=60, temperature=0
    )
    return [type(answer.choices[0].message.parsed).__name__, answer.choices[0].finish_reason]


def streamed(client: OpenAI) -> Any:
    """Chunks, without usage."""
    chunks = list(_ask(client, stream=True))
    return [shape(chunks[0]), shape(chunks[1]), chunks[-1].choices[0].finish_reason, {len(c.choices) for c in chunks}]


def streamed_usage(client: OpenAI) -> Any:
    """Chunks, and the usage that was asked for."""
    chunks = list(_ask(client, stream=True, stream_options={"include_usage": True}))
    return [shape(chunks[-1]), chunks[-1].choices, chunks[-1].usage.completion_tokens]


def streamed_counts(client: OpenAI) -> Any:
    """Running counts."""
    options = {"include_usage": True, "continuous_usage_stats": True}
    counts = [chunk.usage.completion_tokens for chunk in _ask(client, stream=True, stream_options=options)]
    return [counts == sorted(counts), counts[-1]]


def helper(client: OpenAI) -> Any:
    """The client's own accumulator."""
    with client.chat.completions.stream(model=MODEL, messages=HI, max_tokens=6, temperature=0) as stream:
        kinds = [event.type for event in stream]
        return [sorted(set(kinds)), shape(stream.get_final_completion())]


def helper_tool(client: OpenAI) -> Any:
    """The client's own accumulator of a tool call's arguments."""
    asked: dict[str, Any] = {"tools": [TOOL], "tool_choice": "required", "max_tokens": 60, "temperature": 0}
    with client.chat.completions.stream(model=MODEL, messages=HI, **asked) as stream:
        kinds = [event.type for event in stream]
        call = (stream.get_final_completion().choices[0].message.tool_calls or [None])[0]
        return [sorted(set(kinds)), shape(call.function.parsed_arguments) if call else None]


def asynchronous(client: OpenAI) -> Any:
    """The asynchronous client, eight at once, half of them streams."""

    async def one(asked: AsyncOpenAI, stream: bool) -> Any:
        answer = await asked.chat.completions.create(
            model=MODEL, messages=HI, max_tokens=4, temperature=0, stream=stream
        )
        if not stream:
            return shape(answer)
        chunks = [chunk async for chunk in answer]  # whether the last one carries text is a matter of timing
        return [shape(chunks[0]), chunks[-1].choices[0].finish_reason]

    async def run() -> Any:
        async with AsyncOpenAI(base_url=client.base_url, api_key=client.api_key, max_retries=0) as asked:
            return await asyncio.gather(*(one(asked, bool(number % 2)) for number in range(8)))

    return asyncio.run(run())


def completion(client: OpenAI) -> Any:
    """A plain completion with log probabilities and echo."""
    return shape(
        client.completions.create(
            model=MODEL, prompt=["One", "Two"], max_tokens=3, temperature=0, logprobs=1, echo=True
        )
    )


def completion_streamed(client: OpenAI) -> Any:
    """A plain completion, streamed."""
    chunks = list(client.completions.create(model=MODEL, prompt="One", max_tokens=3, temperature=0, stream=True))
    return [shape(chunks[0]), chunks[-1].choices[0].finish_reason]


def too_long(client: OpenAI) -> Any:
    """More tokens than the model has."""
    return _ask(client, max_tokens=100_000)


def too_long_streamed(client: OpenAI) -> Any:
    """The same, where a stream was asked for."""
    return list(_ask(client, max_tokens=100_000, stream=True))


def bad_field(client: OpenAI) -> Any:
    """A field of the wrong type."""
    return _ask(client, extra_body={"temperature": "hot"})


def bad_schema(client: OpenAI) -> Any:
    """A grammar that does not compile."""
    return _ask(client, extra_body={"structured_outputs": {"regex": "("}})


def unknown_model(client: OpenAI) -> Any:
    """A model that is not there."""
    return client.chat.completions.create(model="nobody", messages=HI)


def no_messages(client: OpenAI) -> Any:
    """An empty conversation."""
    return client.chat.completions.create(model=MODEL, messages=[])


OPENAI = (
    whole, raw, extensions, logprobs, several, stopped, tool, parsed, streamed, streamed_usage, streamed_counts, helper,
    helper_tool, asynchronous, completion, completion_streamed, too_long, too_long_streamed, bad_field, bad_schema,
    unknown_model, no_messages,
)  # fmt: skip


def message(client: Anthropic) -> Any:
    """A message."""
    return shape(client.messages.create(model=MODEL, messages=HI, max_tokens=5, extra_body=GREEDY))


def message_raw(client: Anthropic) -> Any:
    """Status and content type behind it."""
    answer = client.messages.with_raw_response.create(model=MODEL, messages=HI, max_tokens=2, extra_body=GREEDY)
    return [answer.status_code, answer.headers["content-type"]]


def message_streamed(client: Anthropic) -> Any:
    """The client's own accumulator."""
    with client.messages.stream(model=MODEL, messages=HI, max_tokens=5, extra_body=GREEDY) as stream:
        kinds = [event.type for event in stream]
        last = stream.get_final_message()
        return [sorted(set(kinds)), shape(last), last.stop_reason, last.usage.output_tokens]


def message_events(client: Anthropic) -> Any:
    """The bare events."""
    stream = client.messages.create(model=MODEL, messages=HI, max_tokens=3, extra_body=GREEDY, stream=True)
    return list(dict.fromkeys(event.type for event in stream))


def message_tool(client: Anthropic) -> Any:
    """A forced tool use, streamed."""
    asked: dict[str, Any] = {
        "tools": [CLAUDE_TOOL],
        "tool_choice": {"type": "any"},
        "max_tokens": 60,
        "extra_body": GREEDY,
    }
    with client.messages.stream(model=MODEL, messages=HI, **asked) as stream:
        return [block.type for block in stream.get_final_message().content]


def message_system(client: Anthropic) -> Any:
    """A system prompt, stop sequences and blocks."""
    blocks: list[Any] = [{"role": "user", "content": [{"type": "text", "text": "Name a colour."}]}]
    return shape(
        client.messages.create(
            model=MODEL, system="Be brief.", messages=blocks, max_tokens=4, extra_body=GREEDY, stop_sequences=["zzz"]
        )
    )


def counted(client: Anthropic) -> Any:
    """Tokens of an input."""
    return client.messages.count_tokens(model=MODEL, messages=HI).input_tokens


def message_asynchronous(client: Anthropic) -> Any:
    """The asynchronous client."""

    async def run() -> Any:
        async with AsyncAnthropic(base_url=client.base_url, api_key=client.api_key, max_retries=0) as asked:
            return shape(await asked.messages.create(model=MODEL, messages=HI, max_tokens=3, extra_body=GREEDY))

    return asyncio.run(run())


def message_too_long(client: Anthropic) -> Any:
    """More tokens than the model has."""
    return client.messages.create(model=MODEL, messages=HI, max_tokens=15_000)


def message_unknown_model(client: Anthropic) -> Any:
    """A model that is not there."""
    return client.messages.create(model="nobody", messages=HI, max_tokens=3, extra_body=GREEDY)


ANTHROPIC = (
    message, message_raw, message_streamed, message_events, message_tool, message_system, counted, message_asynchronous,
    message_too_long, message_unknown_model,
)  # fmt: skip
