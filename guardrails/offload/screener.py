"""Screens in the event loop what is small or harmless, and everything else in a process of its own.

A scan in another process ends with the request: on a disconnect, at the deadline, or after `screening.timeout_s`. It never holds
the event loop, and projects take turns.
"""

from typing import NamedTuple

import msgspec

from guardrails.engine.answers import suspects_of
from guardrails.engine.policy import Policy
from guardrails.engine.requests import suspects
from guardrails.offload.worker import INSPECT, SCREENS, TARGET, Inspected, Job, Screened
from tidegate.config.settings import ScreeningSettings
from tidegate.errors import InvalidRequest, Overloaded, TidegateError, UpstreamBroken
from tidegate.serving.process_pool import Failure, JobFailed, PoolLimits, ProcessPool
from tidegate.types import Principal, Verdict
from tidegate.wire.openai import GenerateRequest, decode_request
from tidegate.wire.skim import MAX_INLINE_BYTES

_MAX_INLINE_BYTES, _MAX_INLINE_VALUES = 4_096, 256
"""Texts in which there may be a finding are scanned in the event loop up to here."""
_ATTEMPTS = 2


class Inspection(NamedTuple):
    """What a look at a large request found; what it must not pass for is raised by the stage that checks it."""

    request: GenerateRequest
    not_allowed: TidegateError | None
    refused: TidegateError | None
    body: bytes
    """As the guardrails let it pass."""
    verdicts: list[Verdict]
    inline_media: bool
    spans: dict[str, tuple[int, int]] | None
    tokens: int


class Screener:
    """Shows texts to a policy's guardrails; `close` when done."""

    def __init__(self, settings: ScreeningSettings) -> None:
        limits = PoolLimits(settings.processes, settings.memory_bytes, settings.timeout_s, max_waiting=64)
        self._pool = ProcessPool(TARGET, limits)
        self._timeout_s = settings.timeout_s

    async def close(self) -> None:
        """Kill every process."""
        await self._pool.close()

    async def screen(self, kind: str, policy: Policy, raw: bytes, principal: Principal) -> tuple[bytes, list[Verdict]]:
        """What `SCREENS[kind]` makes of `raw`: `raw` itself where nothing was changed.

        Raises:
            ContentFiltered, InvalidRequest, UpstreamBroken: as the screen does; InvalidRequest or UpstreamBroken also where
                screening takes more time or memory than is allowed.
            RateLimited: the project has too many texts waiting to be screened.
            Overloaded: the process that screened ended.
        """
        if not policy.spec or (len(raw) < _MAX_INLINE_BYTES and raw.count(b",") <= _MAX_INLINE_VALUES):
            return SCREENS[kind](policy, raw)
        if len(raw) < MAX_INLINE_BYTES and not _may_match(kind, policy, raw):
            return raw, []
        head, body = await self._run(kind, policy, raw, principal)
        screened = msgspec.json.decode(head, type=Screened)
        verdicts = screened.known_verdicts()
        if screened.failure is not None:
            raise screened.failure.error(verdicts)
        return body if screened.changed else raw, verdicts

    async def inspect(self, policy: Policy, raw: bytes, principal: Principal) -> Inspection:
        """Everything that is looked for in a large request, in one go.

        Raises:
            InvalidRequest: it cannot be read, or reading it takes more time or memory than is allowed.
            RateLimited, Overloaded: as `screen`.
        """
        head, body = await self._run(INSPECT, policy, raw, principal)
        found = msgspec.json.decode(head, type=Inspected)
        if found.unreadable is not None:
            raise found.unreadable.error([])
        verdicts, failure = found.screened.known_verdicts(), found.screened.failure
        return Inspection(
            decode_request(found.request),
            None if found.not_allowed is None else found.not_allowed.error([]),
            None if failure is None else failure.error(verdicts),
            body if found.screened.changed else raw,
            verdicts,
            found.inline_media,
            found.spans,
            found.tokens,
        )

    async def _run(self, kind: str, policy: Policy, raw: bytes, principal: Principal) -> tuple[bytes, bytes]:
        job = msgspec.msgpack.encode(Job(kind, policy.spec))
        try:
            return await self._pool.run(principal.tenant, job, raw, attempts=_ATTEMPTS)
        except JobFailed as error:
            raise self._as_error(error, of_answer=kind not in ("request", INSPECT)) from error

    def _as_error(self, error: JobFailed, *, of_answer: bool) -> Exception:
        if error.failure is Failure.DIED:
            return Overloaded("The process that checked the request ended. Try again.")
        if error.failure is Failure.DEFECT:
            return RuntimeError(f"screening failed: {error.detail}")
        time = f"longer than the {self._timeout_s:g} s allowed"
        what = time if error.failure is Failure.TIMEOUT else "more memory than is allowed"
        if of_answer:
            return UpstreamBroken(f"screening the model server's answer takes {what}")
        return InvalidRequest(f"Checking this request takes {what}. Send less at once.", code="request_too_complex")


def _may_match(kind: str, policy: Policy, raw: bytes) -> bool:
    if kind == "request":
        return bool(suspects(policy, raw))
    return bool(suspects_of(policy, raw))
