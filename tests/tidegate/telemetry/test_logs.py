"""JSON log lines: ids, never content."""

import json
import logging

from tidegate.telemetry.logs import JsonLog


def test_lines_are_json_and_levels_hold() -> None:
    out: list[bytes] = []
    log = JsonLog("test", "info", out.append)
    log.write("debug", "hidden")
    log.write("info", "shown", request_id="r1")
    (line,) = out
    assert json.loads(line).items() >= {"event": "shown", "request_id": "r1", "service": "test"}.items()


def test_a_librarys_values_are_not_written() -> None:
    out: list[bytes] = []
    log, root = JsonLog("test", "info", out.append), logging.getLogger()
    before = root.handlers, root.level
    try:
        log.adopt_standard_logging()
        logging.getLogger("lib").warning("bad value %s", "SECRET")
    finally:
        root.handlers, root.level = before
    assert b"SECRET" not in b"".join(out) and b"bad value" in b"".join(out)
