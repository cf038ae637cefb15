"""What a screening process does, and how it is spoken to. It holds no key, no database and no text after a job.

Policies are built from their specification, so guardrails of other distributions work here as in the gateway.
"""

import gc
from collections.abc import Callable

import msgspec
from msgspec import UNSET, Struct

from guardrails.engine.answers import screen_answer, screen_message, screen_transcript
from guardrails.engine.media import check_media
from guardrails.engine.policy import Policy, build_policy
from guardrails.engine.requests import Refused, check_fields, screen_request
from tidegate.config import resources
from tidegate.errors import InvalidRequest, TidegateError, UpstreamBroken
from tidegate.types import Action, Verdict
from tidegate.wire.openai import GenerateRequest
from tidegate.wire.request import read_request, spans_of
from tidegate.wire.skim import Skim

TARGET = f"{__name__}:run"
Screen = Callable[[Policy, bytes], tuple[bytes, list[Verdict]]]
SCREENS: dict[str, Screen] = {
    "request": screen_request,
    "answer": screen_answer,
    "message": screen_message,
    "transcript": screen_transcript,
}
INSPECT = "inspect"


class Job(Struct):
    """What is done with a job's body: one of `SCREENS`, or `INSPECT`."""

    kind: str
    policy: bytes


class ErrorReport(Struct):
    """An error of the error tree on its way between processes."""

    kind: str
    message: str
    param: str | None
    code: str | None

    @classmethod
    def of(cls, error: TidegateError) -> "ErrorReport":
        """Describe one of the errors that checks raise."""
        kind = "refused" if isinstance(error, Refused) else "broken" if isinstance(error, UpstreamBroken) else "invalid"
        return cls(kind, error.message, error.param, error.error_code)

    def error(self, verdicts: list[Verdict]) -> TidegateError:
        """The error again."""
        if self.kind == "refused":
            return Refused(self.message, verdicts)
        if self.kind == "broken":
            return UpstreamBroken(self.message, param=self.param, code=self.code)
        return InvalidRequest(self.message, param=self.param, code=self.code)


class Screened(Struct, frozen=True):
    """A verdict on a text; the text itself is the result's body where it was changed."""

    verdicts: list[tuple[str, str, str, int]] = []
    changed: bool = False
    failure: ErrorReport | None = None

    def known_verdicts(self) -> list[Verdict]:
        """The verdicts as the gateway has them."""
        return [Verdict(name, origin, Action(action), count) for name, origin, action, count in self.verdicts]


class Inspected(Struct):
    """All that is known of a large request."""

    unreadable: ErrorReport | None = None
    request: msgspec.Raw = msgspec.Raw(b"null")
    """The fields that are acted on, as JSON; prompts are left out."""
    not_allowed: ErrorReport | None = None
    """Fields or media that the policy does not allow."""
    screened: Screened = Screened()
    inline_media: bool = True
    spans: dict[str, tuple[int, int]] | None = None
    """Where the outermost fields stand in the body that is sent on."""
    tokens: int = 0
    """Roughly how many values the body has."""


_policies: dict[bytes, Policy] = {}


def run(head: bytes, body: bytes) -> tuple[bytes, bytes]:
    """See `tidegate.serving.forking`."""
    gc.disable()  # decoded JSON has no cycles, and the process is replaced when it has grown
    job = msgspec.msgpack.decode(head, type=Job)
    if job.policy not in _policies:
        _policies.clear()
        _policies[job.policy] = build_policy(resources.Policy.model_validate_json(job.policy))
    policy = _policies[job.policy]
    if job.kind == INSPECT:
        inspected, after = _inspected(policy, body)
        return msgspec.json.encode(inspected), after
    screened, after = _screened(SCREENS[job.kind], policy, body)
    return msgspec.json.encode(screened), after


def _screened(screen: Screen, policy: Policy, raw: bytes) -> tuple[Screened, bytes]:
    try:
        after, verdicts = screen(policy, raw)
    except Refused as error:
        return Screened(_plain(error.verdicts), failure=ErrorReport.of(error)), b""
    except (InvalidRequest, UpstreamBroken) as error:
        return Screened(failure=ErrorReport.of(error)), b""
    changed = after is not raw
    return Screened(_plain(verdicts), changed), after if changed else b""


def _plain(verdicts: "list[Verdict] | object") -> list[tuple[str, str, str, int]]:
    assert isinstance(verdicts, list)  # noqa: S101
    return [(item.guardrail, item.origin, str(item.action), item.findings) for item in verdicts]


def _inspected(policy: Policy, raw: bytes) -> tuple[Inspected, bytes]:
    skim, found = Skim(raw), Inspected()
    try:
        request = read_request(raw, skim)
    except InvalidRequest as error:
        found.unreadable = ErrorReport.of(error)
        return found, b""
    try:
        check_fields(policy, request)
        check_media(policy, raw, skim)
    except InvalidRequest as error:
        found.not_allowed = ErrorReport.of(error)
    found.request = msgspec.Raw(_without_prompts(request))
    found.inline_media = skim.may_hold(b"data:")
    found.tokens = raw.count(b",") + raw.count(b"{") + raw.count(b"[")
    after = b""
    if policy.inputs and found.not_allowed is None:
        found.screened, after = _screened(screen_request, policy, raw)
    if found.not_allowed is None and found.screened.failure is None:
        spans = spans_of(after if found.screened.changed else raw)
        found.spans = spans and {name: spans[name] for name in ("model", "stream_options") if name in spans}
    return found, after


def _without_prompts(request: GenerateRequest) -> bytes:
    request.prompt = request.input = request.prompt_embeds = UNSET
    return msgspec.json.encode(request)
