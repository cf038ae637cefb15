"""`/healthz`: the process is alive. `/readyz`: it has read the database and is not stopping."""

from starlette.requests import Request
from starlette.responses import JSONResponse


async def healthz() -> dict[str, str]:
    """Always 200 while the loop turns."""
    return {"status": "ok"}


async def readyz(request: Request) -> JSONResponse:
    """200 if requests may be sent here, else 503 with the reason."""
    reason = request.app.state.not_ready()
    if reason is None:
        return JSONResponse({"status": "ready"})
    return JSONResponse({"status": "not ready", "reason": reason}, status_code=503)
