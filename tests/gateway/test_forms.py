"""One reading of a form: what the gateway accepts, Starlette's parser (which vLLM uses) reads in the same way.

Not by HTTP: tens of thousands of forms are compared. `test_upload.py` shows the same refusals at the public port.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncGenerator, Callable

import pytest
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from gateway.forms import Form, boundary_of, content_type_of
from guardrails.engine.policy import Policy
from tidegate.errors import InvalidRequest, TidegateError

BOUNDARY = b"X-b"
POLICY = Policy("open", (), (), frozenset({"vllm_xargs"}), ("data:",))
PIECES = (
    b"--X-b\r\n", b"--X-b--\r\n", b"--X-b--", b"\r\n--X-b\r\n", b"\r\n--X-b--", b"--X-b \r\n", b"\r\n--X-b\t\r\n",
    b"\r\n--X-bX", b"\r\n--X-b-X", b"\r\n--X-b\r", b"\r\n--X-", b"--", b"\r\n", b"\r", b"\n", b"\r\n\r\n", b"\0", b" ",
    b'Content-Disposition: form-data; name="model"', b"content-disposition:form-data; name=prompt",
    b'Content-Disposition: form-data; name="file"; filename="a.wav"', b'; filename="x"', b"; filename=x", b"; name=stream",
    b"; name*=utf-8''model", b"; filename*=utf-8''a", b'; name="mod\\"el"', b'"', b"\\", b'\\"', b";", b"=", b'; NAME = "m"',
    b"Content-Type: text/plain; charset=utf-7", b"Content-Type: audio/wav", b"Content-Transfer-Encoding: base64",
    b"Content-Transfer-Encoding: binary", b"content-length: 3", b"X-Other: 1", b" folded", b"+AG0-odel", b"model", b"secret",
    b"4111 1111", "größe".encode(), b"\xff", b"\xef\xbb\xbf", b"vllm_xargs", b"[x]", b"_charset_", b"%6dodel",
)  # fmt: skip


def reading_of(content_type: bytes, pieces: list[bytes]) -> list[tuple[str, str | None]] | None:
    """The fields as Starlette reads them, files without their bytes; None where it refuses."""

    async def stream() -> AsyncGenerator[bytes, None]:
        for piece in pieces:
            yield piece

    async def parse() -> list[tuple[str, str | None]] | None:
        try:
            form = await MultiPartParser(Headers({"content-type": content_type.decode("latin-1")}), stream()).parse()
        except MultiPartException:
            return None
        found = [(name, None if isinstance(value, UploadFile) else value) for name, value in form.multi_items()]
        await form.close()
        return found

    return asyncio.run(parse())


class Recorded(Form):
    """A form that notes every field, as Starlette lists them."""

    def __init__(self) -> None:
        super().__init__(BOUNDARY, POLICY)
        self.items: list[tuple[str, str | None]] = []

    def _end_part(self) -> None:
        super()._end_part()
        self.items.append((self._part.name, None if self._part.is_file else self.fields[self._part.name]))


def own_reading(pieces: list[bytes]) -> list[tuple[str, str | None]] | None:
    form = Recorded()
    try:
        for piece in pieces:
            form.feed(piece)
        form.finish()
    except TidegateError:
        return None
    begin, end = form.model_at
    assert b"".join(pieces)[begin:end].decode() == form.fields.get("model", "")
    return form.items


def part(name: bytes, value: bytes, more: bytes = b"") -> bytes:
    return b'--X-b\r\ncontent-disposition: form-data; name="%b"%b\r\n\r\n%b\r\n' % (name, more, value)


def hostile_form(random_: random.Random) -> bytes:
    """A good form into which some pieces have been put, or out of which some bytes have been taken."""
    form = part(b"model", b"m") + part(b"file", b"sound", b'; filename="a"') + part(b"prompt", b"hi") + b"--X-b--\r\n"
    for _ in range(random_.randint(1, 4)):
        at = random_.randrange(len(form) + 1)
        taken = random_.choice((0, 0, 0, 1, 2, 8))
        form = form[:at] + random_.choice(PIECES) + form[at + taken :]
    return form


def cut(form: bytes, random_: random.Random) -> list[bytes]:
    """The form in pieces."""
    ends = sorted(random_.choices(range(len(form) + 1), k=random_.choice((0, 1, 3, 20))))
    return [form[begin:end] for begin, end in zip([0, *ends], [*ends, len(form)], strict=True) if end > begin]


def compare(random_: random.Random, more: Callable[[int], bool]) -> tuple[int, int]:
    """Compares forms as long as `more` says; how many there were, and how many the gateway accepted."""
    tried = accepted = 0
    while more(tried):
        tried += 1
        form = hostile_form(random_)
        pieces = cut(form, random_)
        own = own_reading(pieces)
        assert own == own_reading([form]), form
        if own is not None:
            accepted += 1
            assert own == reading_of(content_type_of(BOUNDARY), pieces) == reading_of(content_type_of(BOUNDARY), [form])
    return tried, accepted


def test_an_accepted_form_has_one_reading() -> None:
    tried, accepted = compare(random.Random(14), lambda tried: tried < 4000)
    assert accepted > tried / 50, "forms that are accepted must be among them"


@pytest.mark.services
def test_an_accepted_form_has_one_reading_for_half_a_minute() -> None:
    seed, deadline = time.time_ns(), time.monotonic() + 30
    print(f"seed {seed}")
    tried, accepted = compare(random.Random(seed), lambda _: time.monotonic() < deadline)
    assert 0 < accepted < tried


@pytest.mark.parametrize("boundary", [b"X-b", b"a" * 70, b"'()+_,./:=?-", b"a b", b"===============12=="])
def test_the_content_type_that_goes_upstream_names_the_same_boundary(boundary: bytes) -> None:
    sent = content_type_of(boundary)
    assert boundary_of(sent) == boundary_of(b'Multipart/Form-Data;charset=UTF-8; boundary="%b"' % boundary) == boundary
    form = part(b"model", b"m").replace(b"X-b", boundary) + b"--%b--\r\n" % boundary
    assert reading_of(sent, [form]) == [("model", "m")]


@pytest.mark.parametrize(
    "head", [b"content-disposition: %s\x01", b"content-type: a%sb", b"content-disposition: form-data%s"]
)
def test_a_head_costs_no_more_than_its_length(head: bytes) -> None:
    """Four times the spaces may cost some four times as much; sixteen times as much is allowed here."""

    def cost_s(spaces: int) -> float:
        raw = b"--X-b\r\n" + head % (b" " * spaces) + b"\r\n\r\n"
        best = 1.0
        for _ in range(5):
            began = time.process_time()
            for _ in range(20):
                with contextlib.suppress(TidegateError):
                    Form(BOUNDARY, POLICY).feed(raw)
            best = min(best, time.process_time() - began)
        return best

    assert cost_s(4000) < 16 * cost_s(1000)


def test_the_fields_of_a_form_are_bounded_together() -> None:
    form = Form(BOUNDARY, POLICY)
    field = b'--X-b\r\nContent-Disposition: form-data; name="n%d"\r\n\r\n' + b"a" * 30_000 + b"\r\n"
    form.feed(field % 1 + field % 2)
    with pytest.raises(InvalidRequest, match="together"):
        form.feed(field % 3)
