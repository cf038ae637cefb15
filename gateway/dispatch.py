"""Sends a request to a replica and passes the answer back; to another one while the caller has seen nothing of it."""

import asyncio
import time
from functools import partial

from opentelemetry.trace import Span, SpanKind

from gateway.backends.vllm import VllmServer
from gateway.body import outgoing
from gateway.exchange import Exchange, Tried
from gateway.relay import comfort, relay_answer
from gateway.routing.failover import Failover
from gateway.routing.replicas import ReplicaState
from gateway.routing.select import Pick, Selector
from gateway.snapshot import ServedModel
from guardrails.offload.screener import Screener
from tidegate.errors import UpstreamError, UpstreamRejected, UpstreamUnavailable
from tidegate.identity import Minter, caller_for
from tidegate.telemetry import names
from tidegate.telemetry.logs import JsonLog
from tidegate.telemetry.metrics import Metrics
from tidegate.telemetry.tracing import Tracing, fail, traceparent


class Dispatcher:
    """Attempts until one goes well or none is left; one per process."""

    def __init__(
        self,
        selector: Selector,
        failover: Failover,
        *,
        minter: Minter,
        tracing: Tracing,
        metrics: Metrics,
        log: JsonLog,
        screener: Screener,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._selector = selector
        self._failover = failover
        self._minter = minter
        self._tracing = tracing
        self._metrics = metrics
        self._log = log
        self._screener = screener

    async def dispatch(self, exchange: Exchange) -> None:
        """See the module.

        Raises:
            UpstreamError: the last attempt's failure.
        """
        model, loop = exchange.known_model(), self._loop
        exchange.quiet_since = loop.time()
        self._failover.budget(model.name).note_request()
        while True:
            pick = exchange.pick = self._pick(exchange, model)
            try:
                await self._attempt(exchange, model, pick)
                return
            except UpstreamRejected:
                raise
            except UpstreamError as error:
                code = error.error_code or error.type
                exchange.tried = (*exchange.tried, Tried(pick.replica.url, code))
                pause_s = self._pause_s(exchange, model, error, exchange.due - loop.time())
                if pause_s is None:
                    raise
            self._metrics.count(names.RETRIES, model.name, code)
            exchange.begin_again()
            await asyncio.sleep(pause_s)

    def _pick(self, exchange: Exchange, model: ServedModel) -> Pick:
        """A replica that was not tried yet; where there is none, any but the last."""
        replicas, tried = model.replicas, [item.replica for item in exchange.tried]
        pick = self._selector.pick(replicas, frozenset(tried)) if tried else self._selector.pick(replicas)
        if pick is None and tried:
            pick = self._selector.pick(replicas, frozenset(tried[-1:] if len(replicas) > 1 else ()))
        if pick is None:
            raise UpstreamUnavailable(f"No replica of {model.name!r} may serve this request now.")
        return pick

    def _pause_s(self, exchange: Exchange, model: ServedModel, error: UpstreamError, left_s: float) -> float | None:
        """The pause before another attempt, for which `left_s` remain; None if there is to be none."""
        if exchange.ttft_s is not None or exchange.sent_last or (exchange.upload and exchange.upload.begun):
            return None
        pause_s = self._failover.pause_s(
            error,
            attempts=len(exchange.tried),
            left_s=left_s,
            replicas_left=len({item.replica for item in exchange.tried}) < len(model.replicas),
        )
        if pause_s is not None and not self._failover.budget(model.name).take():
            self._metrics.count(names.RETRIES_REFUSED, model.name)
            return None
        return pause_s

    async def _attempt(self, exchange: Exchange, model: ServedModel, pick: Pick) -> None:
        """One replica, once; its connection goes back whatever happens."""
        replica, server = pick.replica, model.servers[pick.replica.url]
        span = None if exchange.span is None else self._begin_span(exchange, exchange.span, pick)
        stream = exchange.stream  # which a form may only turn out to be
        probe = replica.began(time.monotonic(), stream=stream)
        try:
            connection = await server.post(
                outgoing(exchange),
                lines=exchange.trace + self._credentials(exchange, server),
                on_quiet=partial(comfort, exchange) if stream else None,
                quiet_for_s=self._loop.time() - exchange.quiet_since if exchange.tried else 0.0,
            )
            try:
                await relay_answer(exchange, connection, server.settings, self._screener)
            finally:
                server.pool.give_back(connection)
            if stream:
                replica.answered(time.monotonic())  # again: it has shown what it can since its first event
            self._metrics.count(names.ATTEMPTS, replica.url, "ok")
        except UpstreamError as error:
            self._note_failure(replica, error)
            if span is not None:
                fail(span, error.error_code or error.type)
            raise
        finally:
            replica.ended(stream=stream, probe=probe)
            if span is not None:
                span.end()

    def _note_failure(self, replica: ReplicaState, error: UpstreamError) -> None:
        code, now = error.error_code or error.type, time.monotonic()
        self._metrics.count(names.ATTEMPTS, replica.url, code)
        if error.retry_after_s is not None:
            replica.rests(now, error.retry_after_s)
        if error.blames_replica and replica.failed(now):
            self._metrics.count(names.EJECTIONS, replica.url)
            self._log.write(
                "warning",
                "replica_ejected",
                replica=replica.url,
                code=code,
                for_s=round(replica.ejected_until - now, 1),
            )

    def _begin_span(self, exchange: Exchange, parent: Span, pick: Pick) -> Span:
        span = self._tracing.start(names.SPAN_DISPATCH, parent, SpanKind.CLIENT)
        span.set_attribute(names.SERVER_ADDRESS, pick.replica.url)
        span.set_attribute(names.PICK_REASON, pick.reason)
        exchange.carry_trace(traceparent(span))
        return span

    def _credentials(self, exchange: Exchange, server: VllmServer) -> bytes:
        """An internal token, where the server is a service of ours."""
        if server.audience is None:
            return b""
        caller = caller_for(exchange.known_principal(), exchange.request_id)
        return b"authorization: Bearer %s\r\n" % self._minter.mint(caller, server.audience).encode()
