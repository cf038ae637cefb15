"""A form with a file on its way to a model server: checked as it passes, never held whole.

The form is read beside the stream, see `forms.py`. Its beginning is held until the field `model` is there, since only then it
is known where it goes and whether it may.
"""

import asyncio
from collections.abc import AsyncGenerator

from gateway.exchange import Exchange
from gateway.forms import Form, boundary_of, content_type_of
from guardrails.engine.policy import Policy
from tidegate.errors import BodyTooLarge, ClientGone, InvalidRequest
from tidegate.wire.openai import GenerateRequest

HEAD_BYTES = 1_048_576
"""How much of a form may come before its field `model`."""
_STREAM = {"1": True, "on": True, "t": True, "true": True, "y": True, "yes": True}
_STREAM |= {"": False, "0": False, "off": False, "f": False, "false": False, "n": False, "no": False}
"""How vLLM reads a boolean of a form."""


class Upload:
    """One form on its way."""

    def __init__(self, exchange: Exchange, policy: Policy, *, most_bytes: int, patience_s: float) -> None:
        self._exchange = exchange
        self._most_bytes = most_bytes
        self._patience_s = patience_s
        self._loop = asyncio.get_running_loop()
        self._size = self._head_bytes = 0
        boundary = boundary_of(exchange.headers.get(b"content-type", b""))
        self._form = Form(boundary, policy)
        self.content_type = content_type_of(boundary)
        self.more = True
        """Something comes after `head`."""
        self.deadline = exchange.due
        """Loop time at which the whole request is overdue; each piece has `patience_s`."""
        self.head = b""
        self.begun = False
        """More than `head` has been taken, so that the form cannot be sent again."""

    async def read_head(self) -> GenerateRequest:
        """Reads until it is known which model is meant.

        Raises:
            InvalidRequest, BodyTooLarge, ClientGone, Refused: the form cannot be passed on.
        """
        pieces = []
        while "model" not in self._form.fields and self.more:
            pieces.append(await self._receive())
            if self._size > HEAD_BYTES and "model" not in self._form.fields:
                raise InvalidRequest("Put the field `model` before the file.", param="model")
        self.head = b"".join(pieces)
        self._head_bytes = len(self.head)
        if "model" not in self._form.fields:
            raise InvalidRequest("The form has no field `model`.", param="model")
        return GenerateRequest(model=self._form.fields["model"], stream=_streams(self._form.fields))

    def rename(self, model: str) -> None:
        """Puts another model's name into the head."""
        begin, end = self._form.model_at
        self.head = self.head[:begin] + model.encode() + self.head[end:]

    @property
    def length(self) -> int | None:
        """Bytes of the whole form as it is sent on, if the caller has said so."""
        declared = self._exchange.headers.get(b"content-length")
        return None if declared is None else int(declared) + len(self.head) - self._head_bytes

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """What comes after `head`.

        Raises:
            InvalidRequest, BodyTooLarge, ClientGone, Refused: the form must not be passed on to its end.
        """
        try:
            while self.more:
                self.begun = True
                yield await self._receive()
        except (GeneratorExit, asyncio.CancelledError):  # the answer has come before the end of the form
            self.end()
            raise
        self.end()

    def end(self) -> None:
        """Nothing more of the form is read: from here on a hang-up cancels, and the whole request's deadline counts."""
        self._exchange.due = self.deadline
        self._exchange.watch()

    async def _receive(self) -> bytes:
        self._exchange.due = min(self._loop.time() + self._patience_s, self.deadline)
        message = await self._exchange.call.receive()
        self._exchange.due = self.deadline  # what is waited for now is the model server
        if message["type"] != "http.request":
            raise ClientGone("the caller hung up before the body was complete")
        data: bytes = message["body"]
        self._size += len(data)
        if self._size > self._most_bytes:
            raise BodyTooLarge(f"The form is larger than the {self._most_bytes} bytes allowed.")
        self._form.feed(data)
        self.more = bool(message["more_body"])
        if not self.more:
            self._form.finish()
            _streams(self._form.fields)  # which may stand after the file
        return data


async def read_form(exchange: Exchange, most_bytes: int, patience_s: float) -> None:
    """Begins the upload, as far as it must be known to choose a model server.

    Raises:
        InvalidRequest, BodyTooLarge, ClientGone, Refused, UnsupportedMediaType: it cannot be passed on.
    """
    assert exchange.policy is not None  # noqa: S101 - authentication has set it
    upload = Upload(exchange, exchange.policy, most_bytes=most_bytes, patience_s=patience_s)
    exchange.request = await upload.read_head()
    exchange.upload, exchange.stream = upload, bool(exchange.request.stream)
    if not upload.more:
        upload.end()


def _streams(fields: dict[str, str]) -> bool:
    """Whether the field `stream` asks for a stream.

    Raises:
        InvalidRequest: a model server might read it in another way.
    """
    found = _STREAM.get(fields.get("stream", "").lower())
    if found is None:
        raise InvalidRequest("`stream` must be true or false.", param="stream")
    return found
