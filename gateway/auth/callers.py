"""Who calls: an application with its key, or a service of ours with an internal token for the public door."""

from collections.abc import Mapping

from gateway.auth.api_keys import KnownKey, authenticate
from tidegate.errors import Unauthenticated
from tidegate.identity import Caller, TokenRefused, Verifier, check_delegation
from tidegate.keys import Pepper
from tidegate.telemetry import names
from tidegate.telemetry.logs import JsonLog
from tidegate.telemetry.metrics import Metrics
from tidegate.types import Principal

AUDIENCE = "gateway"


def credential(headers: Mapping[bytes, bytes]) -> bytes | None:
    """The `authorization` header, or what Anthropic's clients send in its place: `x-api-key`."""
    header = headers.get(b"authorization")
    if header is None and (key := headers.get(b"x-api-key")) is not None:
        return b"Bearer " + key
    return header


class Callers:
    """Checks credentials against what the snapshot knows; never a database call."""

    def __init__(self, pepper: Pepper, verifier: Verifier, metrics: Metrics, log: JsonLog) -> None:
        self._pepper = pepper
        self._verifier = verifier
        self._metrics = metrics
        self._log = log

    def identify(self, header: bytes | None, known: Mapping[str, KnownKey]) -> tuple[Principal, Caller | None]:
        """The principal, and for a service what its token says.

        A token names the key on whose behalf it was made: when that key is revoked, the token holds no longer.

        Raises:
            Unauthenticated: neither a key nor a token that holds here.
            DelegationOver: a token of a request whose deadline has passed, or that is nested too deeply.
        """
        if header is None or header[7:9] != b"ey":
            return authenticate(header, known, self._pepper), None
        try:
            caller = self._verifier.verify(header.decode("latin-1"))
        except TokenRefused as error:
            self._metrics.count(names.TOKENS_REFUSED, error.reason)
            self._log.write("warning", "internal_token_refused", reason=error.reason)
            raise
        key = known.get(caller.key_id)
        if key is None or (key.principal.organisation, key.principal.project) != (caller.organisation, caller.project):
            raise Unauthenticated("The API key behind this call is unknown, revoked or expired.")
        check_delegation(caller)
        return key.principal, caller
