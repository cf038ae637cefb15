"""The right to act for a caller at the public door: a token of a minute, renewed as long as the run lasts."""

import base64
import json
import time
from contextvars import ContextVar
from typing import Any

import httpx2
from opentelemetry.trace import Span

from tidegate.errors import ServiceUnavailable, Unauthenticated
from tidegate.telemetry.tracing import traceparent, unsampled_traceparent

RENEW_BEFORE_S = 20
_RENEW_TIMEOUT_S = 5.0


class Delegation:
    """One run's token."""

    def __init__(self, token: str, gateway_url: str, client: httpx2.AsyncClient) -> None:
        """`client` must be one without `DelegatedAuth`.

        Raises:
            Unauthenticated: not a token.
        """
        self._token = token
        self._url = f"{gateway_url}/internal/delegations"
        self._client = client
        self._expires = expiry_of(token)

    async def token(self) -> str:
        """A token that holds for a while yet.

        Raises:
            ServiceUnavailable: the gateway does not answer.
            Unauthenticated: it does not renew it: the key was revoked, or the run is too old.
        """
        if self._expires - time.time() < RENEW_BEFORE_S:
            headers = {"authorization": f"Bearer {self._token}"}
            try:
                answer = await self._client.post(self._url, headers=headers, timeout=_RENEW_TIMEOUT_S)
            except httpx2.TransportError as error:
                raise ServiceUnavailable("The gateway does not answer.") from error
            if answer.status_code != 200:
                raise Unauthenticated("The right to act for the caller was not renewed.")
            self._token = str(answer.json()["token"])
            self._expires = expiry_of(self._token)
        return self._token


DELEGATION: ContextVar[Delegation] = ContextVar("delegation")
SPAN: ContextVar[Span | None] = ContextVar("span", default=None)
"""The span below which the next call is made."""


class DelegatedAuth(httpx2.Auth):
    """Puts the current run's token and trace on every request."""

    async def async_auth_flow(self, request: httpx2.Request) -> Any:
        """See httpx2.Auth."""
        request.headers["authorization"] = f"Bearer {await DELEGATION.get().token()}"
        span = SPAN.get()
        value = unsampled_traceparent() if span is None else traceparent(span)
        request.headers["traceparent"] = value.decode()
        yield request


def expiry_of(token: str) -> float:
    """When a token ends, read without checking it: the gateway does that.

    Raises:
        Unauthenticated: not a token.
    """
    try:
        payload = token.split(".")[1]
        return float(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["exp"])
    except (IndexError, ValueError, KeyError, TypeError) as error:
        raise Unauthenticated("There is no right to act for the caller.") from error
