"""An HTTP server that only remembers how it read each request: `python -m tests.operations.echo --port P`.

It is the server every service has, with an application that takes the body and answers 200 without one. `GET /__readings`
gives, by the client's port, the requests of that connection and forgets them. Log lines go to standard output.
"""

import argparse
import asyncio
import base64
import json
from typing import Any

from tidegate.serving.call import Call
from tidegate.serving.run import Door, listen
from tidegate.serving.server import Server
from tidegate.telemetry.logs import JsonLog

CONTROL = b"/__readings"


class Echo:
    """The application."""

    def __init__(self) -> None:
        self.readings: dict[str, list[dict[str, Any]]] = {}

    async def __call__(self, call: Call) -> None:
        """One request."""
        if call.target == CONTROL:
            body = json.dumps(self.readings).encode()
            self.readings.clear()
            call.start(200, b"", len(body))
            call.end(body)
            return
        reading: dict[str, Any] = {
            "method": call.method,
            "target": call.target.decode("latin-1"),
            "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in call.headers],
            "body": None,
        }
        self.readings.setdefault(str(call.scope()["client"][1]), []).append(reading)
        pieces = []
        while (message := await call.receive())["type"] == "http.request":
            pieces.append(message["body"])
            if not message["more_body"]:
                reading["body"] = base64.b64encode(b"".join(pieces)).decode()
                call.start(200, b"", 0)
                call.end()
                return


async def serve(port: int) -> None:
    """Serves until it is killed."""
    server = Server(Echo(), JsonLog("echo", "info"), keep_alive_s=75)
    await server.listen(listen(Door("--port", "127.0.0.1", port)))
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    asyncio.run(serve(parser.parse_args().port))
