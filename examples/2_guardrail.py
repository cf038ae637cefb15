"""A payment card number stays out of the prompt and out of the answer; look-alikes pass.

The real model is made to say a card number by a grammar (`41{15}`), which itself holds none.
"""

import os

from openai import BadRequestError, OpenAI

client = OpenAI(max_retries=0)
model = os.environ["TIDEGATE_MODEL"]
CARD = "4111" + " 1111" * 3  # the usual test number
LOOK_ALIKES = (
    "At 2026-11-22 07:34:35, epoch 1795333881066, order 4929123456789012 shipped, "
    "request 123e4567-e89b-12d3-a456-426614174000, ratio 0.5123456789012345."
)
GRAMMAR = {
    "type": "json_schema",
    "json_schema": {
        "name": "card",
        "schema": {
            "type": "object",
            "properties": {"number": {"type": "string", "pattern": "^41{15}$"}},
            "required": ["number"],
            "additionalProperties": False,
        },
    },
}


def main() -> None:
    """Refused on the way in, ended on the way out, and no false alarm."""
    for form in (CARD, CARD.replace(" ", "-"), CARD.replace(" ", "."), CARD.replace(" ", "")):
        refused(form)
    look_alikes_pass()
    answer_is_ended()
    streamed_answer_is_ended()


def refused(card: str) -> None:
    """400, and the client is told not to try again."""
    try:
        client.chat.completions.create(model=model, messages=[{"role": "user", "content": f"Charge {card} now"}])
    except BadRequestError as error:
        assert error.status_code == 400 and error.code == "content_filter", error
        assert error.response.headers["x-should-retry"] == "false"
        assert card not in error.response.text
        print(f"  refused: a card number with {len(card)} characters, code {error.code}")
    else:
        raise AssertionError("a card number got through to the model")


def look_alikes_pass() -> None:
    """Timestamps, order numbers, UUIDs and fractions are no card numbers."""
    answer = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": LOOK_ALIKES}], max_tokens=4, temperature=0
    )
    assert answer.choices[0].finish_reason in ("stop", "length")
    print("  passed: timestamp, epoch, order number, UUID, fraction")


def answer_is_ended() -> None:
    """The model says a card number; the caller gets `content_filter` instead."""
    answer = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "A number."}], response_format=GRAMMAR, max_tokens=48
    )
    assert answer.choices[0].finish_reason == "content_filter", answer.choices[0].finish_reason
    assert CARD.replace(" ", "") not in answer.model_dump_json()
    print(f"  whole answer ended: {answer.choices[0].message.content!r}")


def streamed_answer_is_ended() -> None:
    """The same while streaming: no digit of it goes out."""
    stream = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "A number."}],
        response_format=GRAMMAR,
        max_tokens=48,
        stream=True,
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "content_filter"
    assert "1111" not in text, text
    print(f"  stream ended after {text!r}")


if __name__ == "__main__":
    main()
