"""Tool server `calendar`: dates and business days with the holidays of countries and of the TARGET settlement system."""

import datetime
from typing import Annotated

import holidays
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations
from pydantic import BaseModel, Field

from mcp_servers.hosting.process import Deps

_MOST_DAYS = 3660
_FIRST_YEAR, _LAST_YEAR = 1990, 2100
_READ_ONLY = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)
Day = Annotated[datetime.date, Field(description="A date, YYYY-MM-DD")]
Calendar = Annotated[
    str, Field(pattern="^[A-Z]{2,6}$", description="Two-letter country code (DE, BE, …), or TARGET for euro settlement")
]


class BusinessDay(BaseModel):
    """A date in a calendar."""

    date: datetime.date
    weekday: str
    is_business_day: bool
    holiday: str | None = Field(description="The holiday's name, if it is one")


class Holiday(BaseModel):
    """One holiday."""

    date: datetime.date
    name: str


def build(deps: Deps) -> MCPServer:
    """The server."""
    server = MCPServer(
        "calendar", instructions="Dates and business days. Weekends and the calendar's holidays are no business days."
    )

    @server.tool(annotations=_READ_ONLY)
    def is_business_day(date: Day, calendar: Calendar) -> BusinessDay:
        """Whether a date is a business day, and if not, why."""
        return _shown(date, _calendar(calendar))

    @server.tool(annotations=_READ_ONLY)
    def add_business_days(
        date: Day,
        days: Annotated[
            int, Field(ge=-_MOST_DAYS, le=_MOST_DAYS, description="Business days to go; negative goes back")
        ],
        calendar: Calendar,
    ) -> BusinessDay:
        """The date so many business days after (or before) a date. Zero gives the date itself, or the next business day."""
        closed, step = _calendar(calendar), 1 if days >= 0 else -1
        left = abs(days)
        while left or not _open(date, closed):
            date = _within(date + datetime.timedelta(days=step))
            left -= 1 if left and _open(date, closed) else 0
        return _shown(date, closed)

    @server.tool(annotations=_READ_ONLY)
    def business_days_between(start: Day, end: Day, calendar: Calendar) -> int:
        """How many business days lie from `start` (exclusive) to `end` (inclusive); negative if `end` is earlier."""
        if abs((end - start).days) > _MOST_DAYS:
            raise ToolError(f"The dates may be {_MOST_DAYS} days apart.")
        closed = _calendar(calendar)
        first, last = sorted((start, end))
        count = sum(
            _open(_within(first + datetime.timedelta(days=n)), closed) for n in range(1, (last - first).days + 1)
        )
        return count if end >= start else -count

    @server.tool(annotations=_READ_ONLY)
    def list_holidays(year: Annotated[int, Field(ge=_FIRST_YEAR, le=_LAST_YEAR)], calendar: Calendar) -> list[Holiday]:
        """The holidays of a calendar in a year."""
        closed = _calendar(calendar)
        days = (datetime.date(year, 1, 1) + datetime.timedelta(days=n) for n in range(366))
        return [Holiday(date=day, name=str(closed[day])) for day in days if day.year == year and day in closed]

    return server


def _calendar(code: str) -> holidays.HolidayBase:
    """The holidays of a calendar.

    Raises:
        ToolError: there is no such calendar.
    """
    try:
        return (
            holidays.financial_holidays("XECB")
            if code == "TARGET"
            else holidays.country_holidays(code, language="en_US")
        )
    except NotImplementedError as error:
        raise ToolError(f"There is no calendar {code!r}. Use a two-letter country code, or TARGET.") from error


def _open(date: datetime.date, closed: holidays.HolidayBase) -> bool:
    return date.weekday() < 5 and date not in closed


def _within(date: datetime.date) -> datetime.date:
    if not _FIRST_YEAR <= date.year <= _LAST_YEAR:
        raise ToolError(f"Dates must lie between {_FIRST_YEAR} and {_LAST_YEAR}.")
    return date


def _shown(date: datetime.date, closed: holidays.HolidayBase) -> BusinessDay:
    name = closed.get(_within(date))
    return BusinessDay(date=date, weekday=f"{date:%A}", is_business_day=_open(date, closed), holiday=name)
