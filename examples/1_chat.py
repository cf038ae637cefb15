"""Chat through the gateway with the official client: whole, streamed, as JSON after a schema, and as a tool call.

Needs OPENAI_BASE_URL, OPENAI_API_KEY and TIDEGATE_MODEL, which `tidegate journeys` sets.
What a small model says is of no interest; the assertions are about protocol, usage and finish reasons.
"""

import json
import os

from openai import OpenAI

client = OpenAI()
model = os.environ["TIDEGATE_MODEL"]


def main() -> None:
    """Walks the four ways."""
    models = [item.id for item in client.models.list()]
    assert model in models, models
    print(f"  models: {', '.join(models)}")
    whole()
    streamed()
    json_schema()
    tool_call()


def whole() -> None:
    """One answer in one piece."""
    answer = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "Name a colour."}], max_tokens=24, temperature=0
    )
    choice = answer.choices[0]
    assert choice.message.content and choice.finish_reason in ("stop", "length")
    assert answer.usage and answer.usage.prompt_tokens > 0 and 0 < answer.usage.completion_tokens <= 24
    print(f"  whole: {choice.message.content[:60]!r}, {answer.usage.completion_tokens} tokens, {choice.finish_reason}")


def streamed() -> None:
    """The same in chunks, once with usage and once without."""
    for include_usage in (True, False):
        chunks = list(
            client.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": "Count to five."}],
                max_tokens=16,
                stream=True,
                **({"stream_options": {"include_usage": True}} if include_usage else {}),
            )
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        reasons = [
            chunk.choices[0].finish_reason for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason
        ]
        assert text and len(chunks) > 3 and len(reasons) == 1
        usages = [chunk.usage for chunk in chunks if chunk.usage]
        assert len(usages) == (1 if include_usage else 0), usages
        told = (
            f"{usages[0].prompt_tokens} + {usages[0].completion_tokens} tokens"
            if usages
            else "usage not asked for, not sent"
        )
        print(f"  streamed: {len(chunks)} chunks, {reasons[0]}, {told}")


def json_schema() -> None:
    """An answer that must follow a schema."""
    schema = {
        "type": "object",
        "properties": {"currency": {"enum": ["EUR", "USD", "GBP"]}, "amount": {"type": "integer"}},
        "required": ["currency", "amount"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "A payment of seven euros, as JSON."}],
        response_format={"type": "json_schema", "json_schema": {"name": "payment", "schema": schema, "strict": True}},
        max_tokens=40,
        temperature=0,
    )
    parsed = json.loads(answer.choices[0].message.content or "")
    assert set(parsed) == {"currency", "amount"} and parsed["currency"] in ("EUR", "USD", "GBP"), parsed
    print(f"  json schema: {parsed}")


def tool_call() -> None:
    """A tool call that the caller forces; `strict` makes its arguments follow the schema."""
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Is 2026-12-25 a business day?"}],
        tools=[
            {
                "type": "function",
                "function": {
                    "name": "is_business_day",
                    "strict": True,
                    "parameters": {
                        "type": "object",
                        "properties": {"country": {"enum": ["IT", "DE", "FR"]}},
                        "required": ["country"],
                        "additionalProperties": False,
                    },
                },
            }
        ],
        tool_choice={"type": "function", "function": {"name": "is_business_day"}},
        max_tokens=64,
        temperature=0,
    )
    calls = answer.choices[0].message.tool_calls
    assert calls and calls[0].type == "function" and calls[0].function.name == "is_business_day"
    arguments = json.loads(calls[0].function.arguments)
    assert arguments["country"] in ("IT", "DE", "FR"), arguments
    print(f"  tool call: {calls[0].function.name}({arguments})")


if __name__ == "__main__":
    main()
