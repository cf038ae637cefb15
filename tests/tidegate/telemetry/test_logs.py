"""JSON log lines: ids, never content."""

import io
import json
import logging

from tidegate.telemetry.logs import JsonLog


def test_lines_are_json_and_levels_hold() -> None:
    out = io.StringIO()
    log = JsonLog("test", "info", out)
    log.write("debug", "hidden")
    log.write("info", "shown", request_id="r1")
    (line,) = out.getvalue().splitlines()
    assert json.loads(line).items() >= {"event": "shown", "request_id": "r1", "service": "test"}.items()


def test_a_librarys_values_are_not_written() -> None:
    out = io.StringIO()
    log, root = JsonLog("test", "info", out), logging.getLogger()
    before = root.handlers, root.level
    try:
        log.adopt_standard_logging()
        logging.getLogger("lib").warning("bad value %s", "SECRET")
    finally:
        root.handlers, root.level = before
    assert "SECRET" not in out.getvalue() and "bad value" in out.getvalue()
