"""A port: its connections and the calls on them, and how they end when the process stops.

Stopping has three steps, each begun by the one who runs the process: answers say `connection: close`, so that callers and
routers open their next connection elsewhere; new requests are refused; what is left is cut.
"""

import asyncio
import heapq
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from tidegate.errors import Stopping, TidegateError, render
from tidegate.serving.call import Call, Date, header_lines
from tidegate.serving.protocol import SOON_S, Http1
from tidegate.telemetry.logs import JsonLog

_LOOK_EVERY_S, _LOOK_CLOSELY_S = 1.0, 0.02
_LAST_BYTES_POLLS = 50
MAX_CONNECTIONS = 8192
MAX_UNTAKEN_BYTES = 67_108_864
"""Of responses that are complete, or nearly, and that slow clients have yet to take, on all connections together."""
_BACKLOG = 2048
_MAX_TURNED_AWAY = 64
"""Connections beyond the limit that are told so at once; others are closed without a word."""
_CLOSED_TOGETHER = 16
"""Part of all connections, as a divisor, that is closed at once for newcomers: looking for the oldest is not for free."""
_TELL_EVERY_S = 10.0
App = Callable[[Call], Awaitable[None]]


def _rank(connection: Http1) -> tuple[bool, bool, float]:
    return connection.idle_rank


def asgi(app: Any) -> App:
    """An ASGI application as one that takes calls."""

    async def serve(call: Call) -> None:
        await app(call.scope(), call.receive, call.send)

    return serve


class Server:
    """One listening port."""

    def __init__(self, app: App, log: JsonLog, *, keep_alive_s: float, max_connections: int = MAX_CONNECTIONS) -> None:
        self.loop = asyncio.get_running_loop()
        self.connections: set[Http1] = set()
        self.calls: set[Call] = set()
        self.max_connections = max_connections
        self.unread_bytes = 0
        """Of bodies that have come and no application has taken."""
        self.closing = False
        """Answers end their connections."""
        self.refusing = False
        """New requests are refused."""
        self.date = Date()
        self._app = app
        self._log = log
        self._keep_alive_s = keep_alive_s
        self._idle = asyncio.Event()
        self._told_full_at = -_TELL_EVERY_S
        self._listener: asyncio.Server | None = None
        self._looker: asyncio.TimerHandle | None = None

    async def listen(self, listener: socket.socket) -> None:
        """Serves what comes in on `listener`."""
        self._listener = await self.loop.create_server(
            lambda: Http1(self), sock=listener, backlog=min(_BACKLOG, self.max_connections)
        )
        self._looker = self.loop.call_later(_LOOK_EVERY_S, self._look)

    def make_room(self, newcomer: Http1) -> None:
        """For the protocol: `newcomer` is one connection too many. Closes those that are idle for longest, or else `newcomer`."""
        count = max(1, self.max_connections // _CLOSED_TOGETHER)
        idle = [each for each in self.connections if each is not newcomer and each.can_be_closed]
        for connection in heapq.nsmallest(count, idle, key=_rank):
            self.connections.discard(connection)
            connection.transport.abort()
        now = self.loop.time()
        if now - self._told_full_at > _TELL_EVERY_S:
            self._told_full_at = now
            self._log.write("warning", "connections_full", limit=self.max_connections, idle=len(idle))
        if len(self.connections) > self.max_connections + _MAX_TURNED_AWAY:
            newcomer.transport.abort()
        elif not idle and len(self.connections) > self.max_connections:
            newcomer.turn_away()

    def begin(self, call: Call) -> None:
        """For the protocol: a request's turn has come."""
        self.calls.add(call)
        if self.refusing:
            self.answer(
                call, Stopping("This gateway is stopping. Another one, or this one in a moment, will serve you.")
            )
            self._ended(call)
            return
        call.task = self.loop.create_task(self._run(call))

    async def _run(self, call: Call) -> None:
        try:
            await self._app(call)
            if not call.answered and not call.gone:
                self._log.write("error", "defect", error="an answer was not completed")
                self._fail(call)
        except asyncio.CancelledError:
            self._fail(call)
        except Exception as error:  # noqa: BLE001 - nobody awaits this task; the connection must end
            self._log.write("error", "defect", error=type(error).__name__, where="an application")
            self._fail(call)
        finally:
            self._ended(call)

    def _ended(self, call: Call) -> None:
        self.calls.discard(call)
        call.task = call.on_gone = call.on_stop = None
        if not self.calls:
            self._idle.set()

    def _fail(self, call: Call) -> None:
        """The last words to a caller whose call failed: an error if nothing was said yet, else the end."""
        if call.answered or call.gone:
            return
        if call.started:
            call.abort()
        else:
            self.answer(call, TidegateError("The service failed."))

    @staticmethod
    def answer(call: Call, error: TidegateError) -> None:
        """Answers with `error`, and ends the connection."""
        status, headers, body = render(error)
        call.keep_alive = False
        call.start(status, header_lines(headers), len(body))
        call.end(body)

    async def wait_until_idle(self, seconds: float) -> bool:
        """Waits until no call is under way; whether that came true in time."""
        try:
            async with asyncio.timeout(seconds):
                while self.calls:
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def wait_until_quiet(self, seconds: float, *, again: bool) -> bool:
        """Waits until no call is under way and none may be asked (see `Http1.may_be_asked`); whether that came true in time."""
        deadline = self.loop.time() + seconds
        while True:
            await asyncio.sleep(_LOOK_CLOSELY_S)  # first of all: what was accepted just now is not in `connections` yet
            now = self.loop.time()
            if not self.calls and not any(each.may_be_asked(now, again=again) for each in self.connections):
                return True
            if now > deadline:
                return False

    def cut(self, *, gently: bool) -> None:
        """Ends every call that is under way; gently, so that it may say its last words, or at once."""
        for call in list(self.calls):
            if gently and call.on_stop is not None:
                call.on_stop()
            elif call.task is not None:
                call.task.cancel()

    def stop_listening(self) -> None:
        """Takes no new connections; another process does."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def close(self) -> None:
        """The end: nothing is listened for any more, what was asked just now is refused, idle connections are closed."""
        self.closing = self.refusing = True
        if self._looker is not None:
            self._looker.cancel()
        self.stop_listening()
        await self.wait_until_quiet(SOON_S, again=False)
        for connection in list(self.connections):
            connection.close_if_idle()
        for _ in range(_LAST_BYTES_POLLS):  # answers that are complete may still be on their way to slow callers
            if not self.connections:
                return
            await asyncio.sleep(_LOOK_CLOSELY_S)
        for connection in list(self.connections):
            connection.transport.abort()
        await asyncio.sleep(0)

    def _drop_slow_readers(self, untaken: int) -> None:
        """Those first for which the process holds most."""
        for connection in sorted(self.connections, key=lambda each: each.untaken_bytes, reverse=True):
            if untaken <= MAX_UNTAKEN_BYTES:
                return
            untaken -= connection.untaken_bytes
            connection.transport.abort()

    def _look(self) -> None:
        now = self.loop.time()
        untaken = 0
        for connection in list(self.connections):
            connection.look(now, self._keep_alive_s)
            untaken += connection.untaken_bytes
        if untaken > MAX_UNTAKEN_BYTES:
            self._drop_slow_readers(untaken)
        self._looker = self.loop.call_later(_LOOK_EVERY_S, self._look)
