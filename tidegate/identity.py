"""Internal tokens: how one of our services tells another on whose behalf it calls. The caller's own key never travels.

A token is a JWT (RFC 7519) signed with Ed25519: minted by the gateway alone, valid for a minute at most, for one audience.
The private key is the gateway's; every other service holds the public keys only, so none can speak for a caller by itself.
"""

import json
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from joserfc import jwt
from joserfc.errors import BadSignatureError, ExpiredTokenError, InvalidClaimError, JoseError
from joserfc.jwk import KeySet, OKPKey

from tidegate.errors import ConfigError, Forbidden, Unauthenticated
from tidegate.types import Principal

ISSUER = "tidegate-gateway"
ALGORITHM: Literal["Ed25519"] = "Ed25519"
MAX_LIFE_S = 60
MAX_RUN_S = 900
"""How long a request that came with a key may be worked on by services, all that they call in its course included."""
MAX_DEPTH = 8
"""How many delegated requests may stand between a request and the one that came with a key."""
_LEEWAY_S = 5
_MAX_TOKEN_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Caller:
    """On whose behalf a service is called, as the gateway vouches."""

    organisation: str
    project: str
    key_id: str
    policy: str
    request_id: str
    """The gateway's id of the request that this call is part of."""
    until: int = 0
    """Unix time, s, after which no token of this request holds; 0 where the request has only just come in with a key."""
    depth: int = 0
    """How many delegated requests stand between this request and the one that came with a key."""


def caller_for(principal: Principal, request_id: str, delegated: Caller | None = None) -> Caller:
    """On whose behalf services are called in the course of a principal's request.

    `delegated` is what the request's own token says, where a service made the request: its deadline holds here, too.
    """
    until, depth = (0, 0) if delegated is None else (delegated.until, delegated.depth + 1)
    return Caller(
        principal.organisation, principal.project, principal.key_id, principal.policy, request_id, until, depth
    )


class TokenRefused(Unauthenticated):
    """An internal token does not hold; `reason` is for log and metrics."""

    code = "invalid_internal_token"

    def __init__(self, reason: Literal["missing", "malformed", "signature", "expired", "audience", "claims"]) -> None:
        super().__init__("The internal token does not hold here.")
        self.reason = reason


class DelegationOver(Forbidden):
    """A service may no longer act for the caller: the original request's deadline has passed, or it is nested too deeply."""

    code = "delegation_over"


def check_delegation(delegated: Caller) -> None:
    """Checks that a service may act for the caller still.

    Raises:
        DelegationOver: it may not.
    """
    if time.time() >= delegated.until:
        raise DelegationOver(
            f"The original request came in more than {MAX_RUN_S // 60} minutes ago; nothing more is done in its course. "
            "Send a new request."
        )
    if delegated.depth >= MAX_DEPTH:
        raise DelegationOver(
            f"Services have called the gateway for one another {MAX_DEPTH} times; look for a tool that calls itself."
        )


class Minter:
    """Signs tokens with the gateway's private key."""

    def __init__(self, key: OKPKey) -> None:
        self._key = key
        self._header = {"alg": ALGORITHM, "kid": key.kid, "typ": "JWT"}

    @classmethod
    def read(cls, path: Path) -> "Minter":
        """From the private key at `path`.

        Raises:
            ConfigError: missing or not such a key.
        """
        try:
            return cls(OKPKey.import_key(json.loads(path.read_text())))
        except (OSError, ValueError, JoseError) as error:
            raise ConfigError(f"identity.signing_key_file {path}: {_told(error)}; `tidegate init` makes one") from error

    def mint(self, caller: Caller, audience: str) -> str:
        """A token for `audience`, for a minute, but never beyond `caller.until`; about 40 µs.

        Raises:
            DelegationOver: `caller.until` has passed.
        """
        now = int(time.time())
        until = caller.until or now + MAX_RUN_S
        if until <= now:
            check_delegation(caller)
        claims = {
            "iss": ISSUER,
            "aud": audience,
            "iat": now,
            "exp": min(now + MAX_LIFE_S, until),
            "jti": secrets.token_urlsafe(9),
            "sub": caller.key_id,
            "org": caller.organisation,
            "project": caller.project,
            "policy": caller.policy,
            "request_id": caller.request_id,
            "until": until,
            "depth": caller.depth,
        }
        return jwt.encode(self._header, claims, self._key, algorithms=[ALGORITHM])


class Verifier:
    """Checks tokens for one audience."""

    def __init__(self, keys: KeySet, audience: str) -> None:
        self._keys = keys
        self._claims = jwt.JWTClaimsRegistry(
            leeway=_LEEWAY_S,
            iss={"essential": True, "value": ISSUER},
            aud={"essential": True, "value": audience},
            exp={"essential": True},
            iat={"essential": True},
        )

    @classmethod
    def read(cls, path: Path, audience: str) -> "Verifier":
        """With the public keys at `path`.

        Raises:
            ConfigError: missing or not a JSON Web Key Set.
        """
        try:
            return cls(KeySet.import_key_set(json.loads(path.read_text())), audience)
        except (OSError, ValueError, KeyError, JoseError) as error:
            raise ConfigError(f"identity.public_keys_file {path}: {_told(error)}; `tidegate init` makes one") from error

    def verify(self, authorization: str | None) -> Caller:
        """The caller that the bearer token in the `authorization` header vouches for.

        Raises:
            TokenRefused: it does not hold here.
        """
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise TokenRefused("missing")
        claims = self._checked(token)
        names = ("org", "project", "sub", "policy", "request_id")
        values = [value for name in names if isinstance(value := claims.get(name), str) and value]
        if len(values) != len(names):
            raise TokenRefused("claims")
        if claims["exp"] - claims["iat"] > MAX_LIFE_S:
            raise TokenRefused("claims")
        until, depth = claims.get("until", 0), claims.get("depth", 0)
        if not isinstance(until, int) or not isinstance(depth, int):
            raise TokenRefused("claims")
        organisation, project, key_id, policy, request_id = values
        return Caller(organisation, project, key_id, policy, request_id, until, depth)

    def _checked(self, token: str) -> dict[str, Any]:
        if len(token) > _MAX_TOKEN_BYTES:
            raise TokenRefused("malformed")
        try:
            decoded = jwt.decode(token, self._keys, algorithms=[ALGORITHM])
        except (JoseError, ValueError, KeyError, TypeError) as error:
            raise TokenRefused("signature" if isinstance(error, BadSignatureError) else "malformed") from error
        try:
            self._claims.validate(decoded.claims)
        except ExpiredTokenError as error:
            raise TokenRefused("expired") from error
        except InvalidClaimError as error:
            raise TokenRefused("audience" if error.claim == "aud" else "claims") from error
        except JoseError as error:
            raise TokenRefused("claims") from error
        return decoded.claims


def make_keys(signing_key_file: Path, public_keys_file: Path) -> bool:
    """Makes the key pair, readable by the owner only; False if there is one already."""
    if signing_key_file.exists():
        return False
    key = OKPKey.generate_key(ALGORITHM, {"use": "sig", "alg": ALGORITHM}, private=True, auto_kid=True)
    public = {"keys": [key.as_dict(private=False)]}
    for path, value in ((public_keys_file, public), (signing_key_file, key.as_dict(private=True))):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(value, file)
    return True


def _told(error: Exception) -> str:
    return error.strerror or "unreadable" if isinstance(error, OSError) else "not a key of the expected form"
