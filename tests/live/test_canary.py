"""The search for canaries finds what is there: a test that cannot find cannot fail."""

import base64
from pathlib import Path

import pytest

from tests.live.canary import Canaries, files_with, needles


@pytest.mark.parametrize("before", range(4))
@pytest.mark.parametrize("after", range(3))
def test_needles_are_found_raw_and_in_base64_wherever_they_stand(before: int, after: int, tmp_path: Path) -> None:
    canaries = Canaries()
    text = "x" * before + canaries.grouped + "y" * after
    forms = [
        text.encode(),
        base64.b64encode(text.encode()),
        base64.urlsafe_b64encode(text.encode()),
        text.encode("utf-16"),
    ]
    for number, form in enumerate(forms):
        (tmp_path / str(number)).write_bytes(b"\0" * 100 + form)
    (tmp_path / "other").write_bytes(base64.b64encode(b"nothing of the kind") * 100)
    (tmp_path / "empty").touch()
    found = files_with([tmp_path], canaries.card_needles())
    assert [path.name for path in found] == ["0", "1", "2", "3"]
    assert files_with([tmp_path], needles(canaries.words["file"])) == []
    assert files_with([tmp_path], canaries.card_needles(), since=canaries.made_at + 60) == []
