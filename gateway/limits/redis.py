"""Limits that all gateways share, exactly, on however many machines: in Redis, or Valkey.

A script there decides; what is asked while an answer is awaited goes along with the next question, so that many requests
cost one round trip. A running request has a lease that is renewed while its gateway lives, so a killed one's slots come
back, and a server that comes back empty learns again what runs. While it is away nobody waits for it: see docs/faults.md.
"""

import asyncio
import itertools
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from gateway.limits.interface import MODELS
from gateway.limits.memory import Buckets
from gateway.limits.refusals import too_many_at_once, too_many_per_minute
from tidegate.config.settings import LimitsSettings
from tidegate.errors import LimitsAway, OperatorError, TidegateError
from tidegate.store.redis import AWAY, REFUSED, Conversation
from tidegate.telemetry import names
from tidegate.telemetry.logs import JsonLog
from tidegate.telemetry.metrics import Metrics
from tidegate.types import Principal

_SCRIPT = Path(__file__).with_name("redis.lua").read_text()
_MOST_AT_ONCE = 500
_AGAIN_S = 0.3
_TOGETHER_S = 0.005
"""How long what needs no answer waits for something that does."""
_ONCE_MORE_S = 0.025
"""After which who is refused a slot asks again, for one that was given back elsewhere may still have been on its way."""


@dataclass(slots=True)
class _Question:
    """One line of what the script is asked; see there."""

    asked: str
    key: str
    number: int
    name: str
    answer: asyncio.Future[int | None] | None
    """None if there is no store to answer."""


class RedisLimits:
    """See `ProjectLimits`; only inside `running`."""

    def __init__(self, settings: LimitsSettings, metrics: Metrics, log: JsonLog) -> None:
        self._settings = settings
        self._metrics = metrics
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._name = secrets.token_hex(6)
        self._numbers = itertools.count()
        self._processes = settings.processes
        self._prefix = f"{{{settings.redis.prefix}}}"  # in braces: what a script touches stays together
        self._everybody = f"{self._prefix}:processes"
        self._own = Buckets()
        """What this process allows when it is alone; while it is not, what it has used of that."""
        self._slots: dict[str, list[str]] = {}
        """The names under which this process's running requests stand in the store, by their project's key."""
        self._questions: list[_Question] = []
        self._sent: Sequence[_Question] = ()
        self._wake = asyncio.Event()
        self._is_time_to_renew = False
        self._reminder: asyncio.Handle = self._loop.call_soon(self._wake.set)
        self._found_at = self._loop.time()
        self._away_since: float | None = None
        metrics.watch(names.LIMIT_STORE_AWAY, lambda: {(): int(self._away_since is not None)})

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keeps up the conversation with the store; at the end what this process holds is given back.

        Raises:
            OperatorError: the store refuses this user. That it is away is no reason not to start.
        """
        await self._try()
        conversation = asyncio.ensure_future(self._converse())
        try:
            yield
            with suppress(TimeoutError):
                async with asyncio.timeout(2 * self._settings.timeout_s):
                    await self._ask("release", self._everybody, name=self._name)
        finally:
            conversation.cancel()
            await asyncio.gather(conversation, return_exceptions=True)
            self._reminder.cancel()

    def admit(self, principal: Principal) -> Awaitable[None] | None:
        """See `ProjectLimits.admit`."""
        per_minute = principal.limits.requests_per_minute
        if per_minute is None:
            return None
        if self._away_since is not None:
            self._admit_alone(principal, per_minute)
            return None
        return self._admit(principal, per_minute)

    def reserve(self, principal: Principal, kind: str = MODELS) -> Awaitable[None] | None:
        """See `ProjectLimits.reserve`."""
        most = principal.limits.concurrent_requests
        if most is None:
            return None
        key, slot = self._key(kind, principal), f"{self._name}-{next(self._numbers)}"
        if self._away_since is not None:
            self._reserve_alone(key, slot, most)
            return None
        return self._reserve(key, slot, most)

    def release(self, principal: Principal, kind: str = MODELS) -> None:
        """See `ProjectLimits.release`."""
        if principal.limits.concurrent_requests is None:
            return
        key = self._key(kind, principal)
        slots = self._slots[key]
        slot = slots.pop()
        if not slots:
            del self._slots[key]
        self._tell("release", key, slot)

    async def _admit(self, principal: Principal, per_minute: int) -> None:
        wait_us = await self._ask("admit", self._key("rate", principal), per_minute)
        if wait_us is None:
            self._admit_alone(principal, per_minute)
        elif wait_us:
            raise too_many_per_minute(per_minute, wait_us / 1_000_000)
        else:
            self._own.take((principal.organisation, principal.project), self._share(per_minute))

    async def _reserve(self, key: str, slot: str, most: int) -> None:
        try:
            taken = await self._ask("reserve", key, most, slot)
            if taken:
                await asyncio.sleep(_ONCE_MORE_S)
                taken = await self._ask("reserve", key, most, slot)
        except asyncio.CancelledError:
            self._tell("release", key, slot)  # in this order, so it does not matter whether it was granted
            raise
        if taken is None:
            try:
                self._reserve_alone(key, slot, most)
            except TidegateError:
                self._tell("release", key, slot)  # it may have been heard all the same
                raise
        elif taken:
            raise too_many_at_once(most)
        else:
            self._slots.setdefault(key, []).append(slot)

    def _admit_alone(self, principal: Principal, per_minute: int) -> None:
        self._count_alone()
        wait_s = self._own.take((principal.organisation, principal.project), self._share(per_minute))
        if wait_s:
            raise too_many_per_minute(per_minute, wait_s)

    def _reserve_alone(self, key: str, slot: str, most: int) -> None:
        self._count_alone()
        if len(self._slots.get(key, ())) >= int(self._share(most)):
            raise too_many_at_once(most)
        self._slots.setdefault(key, []).append(slot)

    def _count_alone(self) -> None:
        if self._settings.when_away == "refuse":
            raise LimitsAway("Limits cannot be counted at the moment, and nothing passes uncounted. Try again.")
        self._metrics.count(names.LIMITS_ALONE)

    def _share(self, most: int) -> float:
        """What this process may allow alone: if all are alone, no more than the limit together, or one request each."""
        return max(1.0, most / self._processes)

    def _key(self, what: str, principal: Principal) -> str:
        return f"{self._prefix}:{what}:{principal.organisation}:{principal.project}"

    def _ask(self, asked: str, key: str, number: int = 0, name: str = "") -> asyncio.Future[int | None]:
        answer: asyncio.Future[int | None] = self._loop.create_future()
        if self._away_since is not None:
            answer.set_result(None)
        else:
            self._questions.append(_Question(asked, key, number, name, answer))
            self._wake.set()
        return answer

    def _tell(self, asked: str, key: str, name: str) -> None:
        if self._has_been_away_for_a_lease():
            return  # nothing of ours stands there any more
        if not self._questions:
            self._loop.call_later(_TOGETHER_S, self._wake.set)
        self._questions.append(_Question(asked, key, 0, name, None))

    async def _try(self) -> None:
        """The first words with the store."""
        try:
            async with Conversation(self._settings.redis, self._settings.timeout_s) as store:
                await self._renew(store)
        except REFUSED as error:
            raise OperatorError(f"limits.redis: {self._settings.redis.url} refuses us: {error}") from error
        except AWAY as error:
            self._lose(error)

    async def _converse(self) -> None:
        """For ever, whether the store is there or not."""
        while True:
            try:
                async with Conversation(self._settings.redis, self._settings.timeout_s) as store:
                    await self._renew(store)
                    self._find()
                    while True:
                        await self._exchange(store)
            except Exception as error:  # noqa: BLE001 - whatever it is: requests wait for answers
                self._lose(error)
            await asyncio.sleep(_AGAIN_S * random.uniform(0.5, 1.5))

    async def _exchange(self, store: Conversation) -> None:
        """Has the next questions answered, or waits for some."""
        if self._is_time_to_renew:
            await self._renew(store)
        if not self._questions:
            self._wake.clear()
            await self._wake.wait()
            return
        self._sent, self._questions = self._questions[:_MOST_AT_ONCE], self._questions[_MOST_AT_ONCE:]
        for question, said in zip(self._sent, await self._decide(store, self._sent), strict=True):
            if question.answer is not None and not question.answer.done():
                question.answer.set_result(said)
        self._sent = ()

    async def _renew(self, store: Conversation) -> None:
        """Says what runs here, and hears how many processes there are."""
        held = [_Question("renew", key, 0, slot, None) for key, slots in self._slots.items() for slot in slots]
        held.append(_Question("renew", self._everybody, 0, self._name, None))
        seen = 0
        for first in range(0, len(held), _MOST_AT_ONCE):
            *_, seen = await self._decide(store, held[first : first + _MOST_AT_ONCE])
        if self._loop.time() - self._found_at < self._settings.lease_s:
            seen = max(seen, self._processes)  # a store that was empty has not heard of everybody yet
        self._processes = max(seen, self._settings.processes)
        self._is_time_to_renew = False
        self._reminder.cancel()
        self._reminder = self._loop.call_later(self._settings.lease_s / 3, self._remind)

    def _remind(self) -> None:
        self._is_time_to_renew = True
        self._wake.set()

    async def _decide(self, store: Conversation, questions: Sequence[_Question]) -> list[int]:
        keys = [question.key for question in questions]
        words: list[str | int] = [int(self._settings.lease_s * 1000)]
        for question in questions:
            words += (question.asked, question.number, question.name)
        answers: list[int] = await store.ask("EVAL", _SCRIPT, len(keys), *keys, *words)
        return answers

    def _find(self) -> None:
        """The store answers."""
        self._found_at = self._loop.time()
        if self._away_since is not None:
            self._log.write("info", "limit_store_back", away_s=round(self._found_at - self._away_since, 1))
            self._away_since = None

    def _lose(self, error: Exception) -> None:
        """The store does not answer: who waits for it decides alone. What has to be given back is not forgotten."""
        if self._away_since is None:
            self._away_since = self._loop.time()
            reason = f"{type(error).__name__}: {error}"[:300].removesuffix(": ")
            self._log.write("error", "limit_store_away", reason=reason, when_away=self._settings.when_away)
        unanswered, self._sent, self._questions = [*self._sent, *self._questions], (), []
        for question in unanswered:
            if question.answer is None and not self._has_been_away_for_a_lease():
                self._questions.append(question)
            elif question.answer is not None and not question.answer.done():
                question.answer.set_result(None)

    def _has_been_away_for_a_lease(self) -> bool:
        return self._away_since is not None and self._loop.time() - self._away_since > self._settings.lease_s
