"""A form with a file on its way to a model server: checked as it passes, never held whole.

The form is parsed beside the stream, with the parser that vLLM's own framework uses, so that both see the same fields. Its
beginning is held until the field `model` is there, since only then it is known where it goes and whether it may.
"""

import asyncio
import re
from collections.abc import AsyncGenerator

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from gateway.exchange import Exchange
from guardrails.engine.policy import Policy
from guardrails.engine.requests import Refused
from guardrails.engine.texts import screen_text
from tidegate.errors import BodyTooLarge, ClientGone, InvalidRequest, UnsupportedMediaType
from tidegate.wire.openai import GenerateRequest

HEAD_BYTES = 1_048_576
"""How much of a form may come before its field `model`."""
_FIELD_BYTES = 65_536
_MAX_PARTS = 64


class Form:
    """What a multipart form says, as far as it has been fed. Texts of fields are kept, files are not."""

    def __init__(self, boundary: bytes, policy: Policy) -> None:
        self.boundary = boundary
        self.fields: dict[str, str] = {}
        self.ended = False
        self._policy = policy
        self._parts = 0
        self._header_name, self._header_value = b"", b""
        self._name: str | None = None
        self._is_file = False
        self._value = b""
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._on_part_begin,
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers_finished,
                "on_part_data": self._on_part_data,
                "on_part_end": self._on_part_end,
                "on_end": self._on_end,
            },
        )

    def feed(self, data: bytes) -> None:
        """Reads on.

        Raises:
            InvalidRequest: not a form, or one that vLLM might read in another way.
            Refused: a guardrail refuses a field.
        """
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise InvalidRequest("The body is not a valid form (multipart/form-data).") from error

    def finish(self) -> None:
        """Call at the end of the body.

        Raises:
            InvalidRequest: the form has not ended.
        """
        if not self.ended:
            raise InvalidRequest("The form ends too early.")

    def _on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > _MAX_PARTS:
            raise InvalidRequest(f"The form has more than {_MAX_PARTS} fields.")
        self._name, self._is_file, self._value = None, False, b""

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            _, options = parse_options_header(self._header_value)
            self._name = options.get(b"name", b"").decode("utf-8", "replace")
            self._is_file = b"filename" in options
        self._header_name, self._header_value = b"", b""

    def _on_headers_finished(self) -> None:
        if not self._name:
            raise InvalidRequest("A field of the form has no name.")
        if self._name in ("model", "stream") and (self._is_file or self._name in self.fields):
            raise InvalidRequest(f"The form must have one field {self._name!r}, which is a text.", param=self._name)

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            return
        self._value += data[start:end]
        if len(self._value) > _FIELD_BYTES:
            raise InvalidRequest(f"A field of the form is longer than {_FIELD_BYTES} bytes.", param=self._name)

    def _on_part_end(self) -> None:
        if self._is_file or self._name is None:
            return
        try:
            text = self._value.decode()
        except UnicodeDecodeError as error:
            raise InvalidRequest("A field of the form is not UTF-8.", param=self._name) from error
        screened = screen_text(self._policy, text, "input")
        if screened.verdicts:  # nothing can be changed in what has partly gone already
            refusal = screened.refusal or "A field of the form holds what this project's policy would mask."
            raise Refused(refusal, screened.verdicts)
        self.fields[self._name] = text

    def _on_end(self) -> None:
        self.ended = True


class Upload:
    """One form on its way."""

    def __init__(self, exchange: Exchange, policy: Policy, *, most_bytes: int, patience_s: float) -> None:
        self._exchange = exchange
        self._most_bytes = most_bytes
        self._patience_s = patience_s
        self._loop = asyncio.get_running_loop()
        self._size = self._head_bytes = 0
        self._form = Form(_boundary(exchange.headers.get(b"content-type", b"")), policy)
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
        stream = self._form.fields.get("stream", "").lower() in ("true", "1", "on", "yes")
        return GenerateRequest(model=self._form.fields["model"], stream=stream)

    def rename(self, model: str) -> None:
        """Puts another model's name into the head.

        Raises:
            InvalidRequest: its field is written in a way that cannot be changed.
        """
        field = rb'name="?model"?[ \t]*\r\n(?:[^\r\n]+\r\n)*\r\n(.*?)\r\n--' + re.escape(self._form.boundary)
        for found in re.finditer(field, self.head, re.DOTALL):
            if found[1].decode("utf-8", "replace") == self._form.fields["model"]:
                self.head = self.head[: found.start(1)] + model.encode() + self.head[found.end(1) :]
                return
        raise InvalidRequest("The field `model` of the form cannot be read.", param="model")

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


def _boundary(content_type: bytes) -> bytes:
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not 0 < len(boundary) <= 70:
        raise UnsupportedMediaType("Send the audio as a form: multipart/form-data with a boundary.")
    return boundary
