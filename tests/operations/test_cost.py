"""What requests cost and leave behind: gates with a wide margin, for machines are noisy. Figures come from `benchmarks/`."""

import json

import pytest

from benchmarks import ratio
from benchmarks.soak import curve
from benchmarks.stage import stage, store

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]
MARGIN = 1.5


def test_a_request_costs_no_more_than_was_recorded_beside_a_bare_relay() -> None:
    """Both in one run, interleaved, CPU time of the process: what a busy machine does to one it does to the other."""
    recorded = json.loads(ratio.RESULT.read_text())["ratios"]
    found = ratio.ratios()
    print(found, "recorded:", recorded)
    assert {mode: value for mode, value in found.items() if value > MARGIN * recorded[mode]} == {}


def test_memory_sockets_and_tasks_stay_as_they_are() -> None:
    with stage() as made, store() as (store_url, _):
        made.start_upstream()
        begun, _, ended = curve(made.start_tidegate(store_url), requests=8000, cancels=600, steps=2)
    print(begun, ended)
    assert ended["rss_mb"] - begun["rss_mb"] < 10
    assert ended["descriptors"] - begun["descriptors"] < 10
    assert ended["tasks"] <= begun["tasks"]
