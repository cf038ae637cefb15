"""The gateway's internal tokens, checked here without any code of the gateway's: JWT, Ed25519, one audience."""

import json
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from joserfc import jwt
from joserfc.errors import BadSignatureError, ExpiredTokenError, InvalidClaimError, JoseError, MissingClaimError
from joserfc.jwk import KeySet

ISSUER = "tidegate-gateway"
ALGORITHM = "Ed25519"
_MAX_LIFE_S = 60


@dataclass(frozen=True, slots=True)
class Caller:
    """On whose behalf a tool is called."""

    organisation: str
    project: str
    request_id: str
    delegation: str | None
    """A token with which the gateway's public door lets a tool act for the caller, for a minute."""


caller: ContextVar[Caller] = ContextVar("caller")
"""Set for the length of a request."""


class Refused(Exception):
    """A token does not hold; the message is for the log."""


class TokenChecker:
    """Checks tokens for one audience."""

    def __init__(self, public_keys: Path, audience: str) -> None:
        """Reads the keys.

        Raises:
            OSError, ValueError: they cannot be read.
        """
        try:
            self._keys = KeySet.import_key_set(json.loads(public_keys.read_text()))
        except (JoseError, KeyError, TypeError) as error:
            raise ValueError("not a JSON Web Key Set") from error
        self._claims = jwt.JWTClaimsRegistry(
            leeway=5,
            iss={"essential": True, "value": ISSUER},
            aud={"essential": True, "value": audience},
            exp={"essential": True},
            iat={"essential": True},
        )

    def check(self, authorization: str, delegation: str | None) -> Caller:
        """The caller that the bearer token vouches for.

        Raises:
            Refused: the token does not hold here.
        """
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not 0 < len(token) < 4096:
            raise Refused("missing")
        try:
            claims = jwt.decode(token, self._keys, algorithms=[ALGORITHM]).claims
            self._claims.validate(claims)
            if claims["exp"] - claims["iat"] > _MAX_LIFE_S:
                raise Refused("claims")
            return Caller(str(claims["org"]), str(claims["project"]), str(claims["request_id"]), delegation)
        except (JoseError, ValueError, KeyError, TypeError) as error:
            raise Refused(_reason(error)) from error


def _reason(error: Exception) -> str:
    """As the other processes count it."""
    if isinstance(error, ExpiredTokenError):
        return "expired"
    if isinstance(error, InvalidClaimError | MissingClaimError):
        return "audience" if error.claim == "aud" else "claims"
    return "signature" if isinstance(error, BadSignatureError) else "malformed"
