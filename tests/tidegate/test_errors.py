"""Errors in OpenAI's shape."""

import json
from collections.abc import Iterator

import pytest

from tidegate import errors
from tidegate.errors import (
    RateLimited,
    TidegateError,
    UpstreamBusy,
    UpstreamRejected,
    UpstreamUnavailable,
    render,
    render_event,
)


def every(base: type[TidegateError] = TidegateError) -> Iterator[type[TidegateError]]:
    yield base
    for child in base.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from every(child)


@pytest.mark.parametrize("kind", list(every()), ids=lambda kind: kind.__name__)
def test_every_error_renders_in_openai_shape(kind: type[TidegateError]) -> None:
    more = {"RateLimited": {"retry_after_s": 1.2}, "MethodNotAllowed": {"allow": "POST"}}.get(kind.__name__, {})
    theirs = {"message": "why", "type": "BadRequestError", "param": None, "code": 400}
    error = UpstreamRejected(400, theirs) if kind is UpstreamRejected else kind("why", **more)
    status, headers, body = render(error)
    assert json.loads(body)["error"].keys() == {"message", "type", "param", "code"}
    assert 400 <= status < 600
    assert dict(headers)["x-should-retry"] == ("true" if kind.retryable else "false")
    assert kind.__name__ in (errors.__doc__ or ""), "the tree at the top of the file is incomplete"


def test_retry_after_is_rounded_up() -> None:
    assert dict(render(RateLimited("x", retry_after_s=1.2))[1])["retry-after"] == "2"


def test_an_unavailable_model_server_is_worth_another_try_after_a_while() -> None:
    assert dict(render(UpstreamUnavailable("x"))[1])["retry-after"] == "1"
    assert dict(render(UpstreamBusy("x", retry_after_s=6.5))[1])["retry-after"] == "7"


def test_an_error_in_a_stream_is_one_event() -> None:
    event = render_event(TidegateError("x"))
    assert event.startswith(b"data: {") and event.endswith(b"}\n\n") and event.count(b"\n") == 2
