"""Tool server `calendar`: days are counted right, and wrong questions get answers that help."""

import asyncio
from typing import Any

import pytest
from mcp.client import Client

from mcp_servers.calendar import build
from mcp_servers.hosting.process import Deps


def call(tool: str, **arguments: Any) -> Any:
    async def run() -> Any:
        async with Client(build(Deps("calendar", ""))) as client:
            return await client.call_tool(tool, arguments)

    result = asyncio.run(run())
    return result.content[0].text if result.is_error else result.structured_content


@pytest.mark.parametrize(
    ("date", "days", "calendar", "expected"),
    [
        ("2026-12-24", 1, "TARGET", "2026-12-28"),  # 25 and 26 December, then a Sunday
        ("2026-12-28", -1, "TARGET", "2026-12-24"),
        ("2026-05-22", 1, "DE", "2026-05-26"),  # Whit Monday
        ("2026-05-22", 1, "TARGET", "2026-05-25"),
        ("2026-11-21", 0, "TARGET", "2026-11-23"),  # a Saturday
        ("2026-11-20", 0, "TARGET", "2026-11-20"),
        ("2026-11-20", 5, "TARGET", "2026-11-27"),
        ("2026-11-21", -1, "TARGET", "2026-11-20"),
    ],
)
def test_business_days_are_added(date: str, days: int, calendar: str, expected: str) -> None:
    found = call("add_business_days", date=date, days=days, calendar=calendar)
    assert (found["date"], found["is_business_day"]) == (expected, True)


def test_a_holiday_is_named() -> None:
    found = call("is_business_day", date="2026-05-01", calendar="TARGET")
    assert found == {"date": "2026-05-01", "weekday": "Friday", "is_business_day": False, "holiday": "Labour Day"}


def test_business_days_between() -> None:
    between = {"start": "2026-12-23", "end": "2026-12-29", "calendar": "TARGET"}
    assert call("business_days_between", **between) == {"result": 3}
    assert call("business_days_between", start="2026-12-29", end="2026-12-23", calendar="TARGET") == {"result": -3}


def test_holidays_are_listed() -> None:
    found = call("list_holidays", year=2026, calendar="TARGET")["result"]
    assert [day["date"] for day in found] == [
        "2026-01-01",
        "2026-04-03",
        "2026-04-06",
        "2026-05-01",
        "2026-12-25",
        "2026-12-26",
    ]


@pytest.mark.parametrize(
    ("tool", "arguments", "told"),
    [
        ("is_business_day", {"date": "2026-01-01", "calendar": "ZZ"}, "no calendar 'ZZ'"),
        ("is_business_day", {"date": "2300-01-01", "calendar": "DE"}, "between 1990 and 2100"),
        ("is_business_day", {"date": "yesterday", "calendar": "DE"}, "valid date"),
        ("add_business_days", {"date": "2026-01-01", "days": 10_000_000, "calendar": "DE"}, "less than or equal"),
        ("business_days_between", {"start": "1990-01-01", "end": "2090-01-01", "calendar": "DE"}, "days apart"),
    ],
)
def test_wrong_questions_are_answered_with_what_is_wrong(tool: str, arguments: dict[str, Any], told: str) -> None:
    assert told in call(tool, **arguments)
