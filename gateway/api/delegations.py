"""`POST /internal/delegations`: a service that works on a long request gets a fresh token for the public door.

Only for a token that holds, for the same caller and request, and not beyond the deadline that was set when the original
request came in.
"""

from typing import Any

from starlette.requests import Request

from tidegate.errors import Forbidden
from tidegate.identity import MAX_LIFE_S, Caller, Minter


async def renew(request: Request) -> dict[str, Any]:
    """The token, and how long it holds."""
    caller: Caller | None = request.state.service
    if caller is None:
        raise Forbidden("Only a service that works on a request may ask for this.")
    minter: Minter = request.app.state.minter
    return {"token": minter.mint(caller, "gateway"), "expires_in": MAX_LIFE_S}
