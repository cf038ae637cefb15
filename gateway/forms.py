"""The one reading of a form: a strict subset of multipart/form-data that every parser reads alike (RFC 7578).

Model servers read forms with Starlette and python-multipart, in versions that differ in what they forgive: character sets,
escapes, padding after a boundary, text around the form. What could be read in two ways is refused here, and the content type
that goes upstream is written anew, so that the fields that were checked are the fields that the model server sees.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from guardrails.engine.policy import Policy
from guardrails.engine.requests import Refused
from guardrails.engine.texts import screen_text
from tidegate.config.resources import GUARDED_FIELDS
from tidegate.errors import InvalidRequest, UnsupportedMediaType

MAX_TEXT_BYTES = 65_536
"""Of all fields but the file, which are screened on the event loop."""
_MAX_PARTS = 64
_MAX_HEAD_BYTES = 4096
_ONCE = frozenset({"model", "stream", "file"}) | GUARDED_FIELDS
"""Fields that the gateway acts on: parsers differ in which one of two counts."""
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_TYPE = re.compile(rb"multipart/form-data((?:[ \t]*;[ \t]*[a-z]+=(?:\"[^\"\\]*\"|[^\s;,\"\\]+))+)[ \t]*", re.IGNORECASE)
_TYPE_PARAMETER = re.compile(rb";[ \t]*([A-Za-z]+)=(?:\"([^\"]*)\"|([^\s;]+))")
_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_UTF_8 = (b"utf-8", b"utf8")
_HEADER = re.compile(rb"([A-Za-z-]{1,40}):([^\x00-\x1f\x7f]*+)")
_DISPOSITION = re.compile(rb"form-data((?: *; *[a-z]+\*?=(?:\"[^\"]*\"|%b))+)" % _TOKEN, re.IGNORECASE)
_PARAMETER = re.compile(rb"; *([A-Za-z]+\*?)=(?:\"([^\"]*)\"|([^\s;]+))")
_NAME = re.compile(rb"[A-Za-z0-9_.-]{1,64}(?:\[[A-Za-z0-9_.-]{0,64}\]){0,2}")
_CHARSET = re.compile(rb"; *charset *= *\"?([^\";]*)", re.IGNORECASE)
_AS_THEY_ARE = (b"7bit", b"8bit", b"binary")


def boundary_of(content_type: bytes) -> bytes:
    """The boundary that the request's content type names.

    Raises:
        UnsupportedMediaType: not a form in UTF-8.
    """
    match = _TYPE.fullmatch(content_type)
    found = (
        []
        if match is None
        else [(item[1].lower(), item[2] or item[3] or b"") for item in _TYPE_PARAMETER.finditer(match[1])]
    )
    options = dict(found)
    boundary, charset = options.pop(b"boundary", b""), options.pop(b"charset", b"utf-8").lower()
    if options or len(dict(found)) != len(found) or not _BOUNDARY.fullmatch(boundary) or charset not in _UTF_8:
        raise UnsupportedMediaType(
            "Send a form: `content-type: multipart/form-data; boundary=…`, in UTF-8, without other parameters."
        )
    return boundary


def content_type_of(boundary: bytes) -> bytes:
    """The content type that goes upstream: nothing in it comes from the client but the boundary."""
    plain = re.fullmatch(_TOKEN, boundary) is not None
    return b"multipart/form-data; boundary=" + (boundary if plain else b'"%s"' % boundary)


@dataclass(frozen=True, slots=True)
class _Part:
    """What the head of a part says."""

    name: str
    is_file: bool


class Form:
    """A form, as far as it has been fed. The text of fields is kept, files are not."""

    def __init__(self, boundary: bytes, policy: Policy) -> None:
        self.fields: dict[str, str] = {}
        self.ended = False
        self.model_at = (0, 0)
        """Where in the form the value of `model` begins and ends."""
        self._policy = policy
        self._opening = b"--" + boundary + b"\r\n"
        self._delimiter = b"\r\n--" + boundary
        self._names: set[str] = set()
        self._parts = self._text_bytes = 0
        self._part = _Part("", is_file=False)
        self._value = bytearray()
        self._began_at = 0
        self._rest = b""
        self._passed = 0
        """Bytes of the form before `_rest`."""
        self._read: Callable[[bytes, int], int | None] = self._read_opening

    def feed(self, data: bytes) -> None:
        """Reads on.

        Raises:
            InvalidRequest: not a form, or one that two parsers may read in two ways.
            Refused: a guardrail refuses a field.
        """
        data, at = self._rest + data, 0
        while (end := self._read(data, at)) is not None:
            at = end
        at = max(at, self._kept_from(data, at))
        self._rest = data[at:]
        self._passed += at

    def finish(self) -> None:
        """Call at the end of the body.

        Raises:
            InvalidRequest: the form has not ended.
        """
        if not self.ended:
            raise InvalidRequest("The form ends too early.")

    def _kept_from(self, data: bytes, at: int) -> int:
        """Takes what is certainly part of a value; where the rest begins, which more data must decide about."""
        if self._read != self._read_value:
            return at
        end = data.find(self._delimiter, at)
        end = max(at, len(data) - len(self._delimiter) + 1) if end < 0 else end
        self._take(data[at:end])
        return end

    def _read_opening(self, data: bytes, at: int) -> int | None:
        opening = self._opening
        if not data.startswith(opening[: len(data)]):
            raise InvalidRequest("The body is not a valid form: it does not begin with its boundary.")
        if len(data) < len(opening):
            return None
        self._read = self._read_head
        return len(opening)

    def _read_head(self, data: bytes, at: int) -> int | None:
        end = data.find(b"\r\n\r\n", at)
        if (end if end >= 0 else len(data)) - at > _MAX_HEAD_BYTES:
            raise InvalidRequest(f"The head of a field of the form is longer than {_MAX_HEAD_BYTES} bytes.")
        if end < 0:
            return None
        self._parts += 1
        if self._parts > _MAX_PARTS:
            raise InvalidRequest(f"The form has more than {_MAX_PARTS} fields.")
        self._part, self._value = _part_of(data[at:end]), bytearray()
        self._check_name(self._part)
        self._read = self._read_begin
        self._began_at = self._passed + end + 4
        return end + 4

    def _read_begin(self, data: bytes, at: int) -> int | None:
        boundary = self._delimiter[2:]
        begin = data[at : at + len(boundary)]
        if begin == boundary:
            raise InvalidRequest("The body is not a valid form: a boundary does not stand on a line of its own.")
        if len(begin) < len(boundary) and boundary.startswith(begin):
            return None
        self._read = self._read_value
        return at

    def _read_value(self, data: bytes, at: int) -> int | None:
        end = data.find(self._delimiter, at)
        after = end + len(self._delimiter)
        if end < 0 or len(data) < after + 2:
            return None
        follows = data[after : after + 2]
        if follows not in (b"\r\n", b"--"):
            raise InvalidRequest("The body is not a valid form: something follows a boundary on its line.")
        self._take(data[at:end])
        self._end_part()
        self.ended = follows == b"--"
        self._read = self._read_end if self.ended else self._read_head
        return after + 2

    def _read_end(self, data: bytes, at: int) -> int | None:
        if not b"\r\n".startswith(data[at:]):
            raise InvalidRequest("The body is not a valid form: something follows its end.")
        return None

    def _check_name(self, part: _Part) -> None:
        name = part.name
        field = re.split(r"[\[.]", name)[0]
        if field in GUARDED_FIELDS - self._policy.allow_request_fields:
            raise InvalidRequest(
                f"The field {field!r} is not open to callers under this project's policy. Leave it out.",
                param=field,
                code="field_not_allowed",
            )
        if part.is_file != (name == "file"):
            kind = "text" if part.is_file else "file"
            raise InvalidRequest(f"The form must have one field {name!r}, which is a {kind}.", param=name)
        if name in _ONCE and name in self._names:
            raise InvalidRequest(f"The form must have one field {name!r}, not several.", param=name)
        self._names.add(name)
        self._screen(name)

    def _take(self, data: bytes) -> None:
        if self._part.is_file:
            return
        self._value += data
        self._text_bytes += len(data)
        if self._text_bytes > MAX_TEXT_BYTES:
            message = f"The fields of the form are longer than {MAX_TEXT_BYTES} bytes together."
            raise InvalidRequest(message, param=self._part.name)

    def _end_part(self) -> None:
        if self._part.is_file:
            return
        name = self._part.name
        try:
            text = self._value.decode()
        except UnicodeDecodeError as error:
            raise InvalidRequest("A field of the form is not UTF-8.", param=name) from error
        self._screen(text)
        if name == "model":
            self.model_at = (self._began_at, self._began_at + len(self._value))
        self.fields[name] = text

    def _screen(self, text: str) -> None:
        screened = screen_text(self._policy, text, "input")
        if screened.verdicts:  # nothing can be changed in what has partly gone already
            refusal = screened.refusal or "A field of the form holds what this project's policy would mask."
            raise Refused(refusal, screened.verdicts)


def _part_of(head: bytes) -> _Part:
    """Reads the head of a part.

    Raises:
        InvalidRequest: a parser might read it in another way.
    """
    headers: dict[bytes, bytes] = {}
    for line in head.split(b"\r\n"):
        match = _HEADER.fullmatch(line)
        name = b"" if match is None else match[1].lower()
        if match is None or name in headers:
            raise InvalidRequest("The head of a field of the form is malformed, or has a header twice.")
        headers[name] = match[2].strip(b" ")
    name, is_file = _named(headers.pop(b"content-disposition", b""))
    charset = _CHARSET.search(headers.pop(b"content-type", b""))
    if charset is not None and not is_file and charset[1].strip().lower() not in _UTF_8:
        raise InvalidRequest("A field of the form is not UTF-8.", param=name)
    if headers.pop(b"content-transfer-encoding", b"binary").lower() not in _AS_THEY_ARE:
        raise InvalidRequest(
            "A field of the form is encoded (content-transfer-encoding). Send it as it is.", param=name
        )
    headers.pop(b"content-length", None)
    if headers:
        raise InvalidRequest("A field of the form has headers other than those of a form.", param=name)
    return _Part(name, is_file)


def _named(disposition: bytes) -> tuple[str, bool]:
    """The name of a field, and whether it is a file."""
    match = _DISPOSITION.fullmatch(disposition)
    pairs = (
        []
        if match is None
        else [(item[1].lower(), item[2] or item[3] or b"") for item in _PARAMETER.finditer(match[1])]
    )
    options = dict(pairs)
    name = options.get(b"name", b"")
    unclear = (
        b'\\"' in disposition
        or len(options) != len(pairs)
        or not options.keys() <= {b"name", b"filename", b"filename*"}
    )
    if unclear or not _NAME.fullmatch(name) or (b"filename*" in options and b"filename" not in options):
        raise InvalidRequest(
            'A field of the form has no plain name. Write `content-disposition: form-data; name="…"`, for a file with '
            '`; filename="…"`, without escaped quotes.'
        )
    if name == b"_charset_":
        raise InvalidRequest("Leave `_charset_` out: a form is UTF-8.", param="_charset_")
    return name.decode(), b"filename" in options
