"""JSON log lines: ids, never content."""

import asyncio
import json
import logging
import select

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


def test_lines_of_one_moment_are_written_together_and_none_is_kept_back() -> None:
    out: list[bytes] = []
    log = JsonLog("test", "info", out.append)

    async def serve() -> None:
        with log.gathered():
            log.write("info", "first")
            log.write("info", "second")
            assert not out
            await asyncio.sleep(0.05)
            assert len(out) == 1 and out[0].count(b"\n") == 2
            log.write("info", "before")
            log.write("error", "at once")
            assert b"before" in out[1] and out[1].endswith(b"\n") and b"at once" in out[1]
            await asyncio.to_thread(log.write, "info", "from elsewhere")
            assert b"from elsewhere" in out[2]
            log.write("info", "last")
        assert b"last" in out[3]
        log.write("info", "after")
        assert b"after" in out[4]

    asyncio.run(serve())
    assert len(out) == 5


def test_what_is_written_together_passes_through_a_pipe_in_one_piece() -> None:
    out: list[bytes] = []
    log = JsonLog("test", "info", out.append)

    async def serve() -> None:
        with log.gathered():
            for number in range(200):
                log.write("info", "line", number=number, filler="x" * 100)

    asyncio.run(serve())
    assert all(len(piece) <= select.PIPE_BUF and piece.endswith(b"\n") for piece in out) and len(out) < 20
    assert [json.loads(line)["number"] for line in b"".join(out).splitlines()] == list(range(200))
