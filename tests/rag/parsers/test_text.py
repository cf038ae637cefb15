"""Document parser `text`."""

import pytest

from rag.document import CannotRead
from rag.parsers.text import Config, build


def test_the_text_is_the_file() -> None:
    document = build(Config(), None).parse("\ufeffGrüße\nzweite Zeile".encode())
    assert document.text == "Grüße\nzweite Zeile"
    assert [(s.start, s.end, s.page, s.heading) for s in document.sections] == [(0, 18, None, None)]


@pytest.mark.parametrize(("data", "why"), [(b"\xff\xfeh\x00i\x00", "not UTF-8"), (b" \n ", "no text")])
def test_what_is_no_text_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(CannotRead, match=why):
        build(Config(), None).parse(data)
