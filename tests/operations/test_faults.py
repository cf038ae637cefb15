"""What a caller sees when a model server fails: every row of `docs/faults.md`, with the faulty replica alone and not."""

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from tests.operations.faults import GOOD, Row, begun, expects_error, other_faults, rows, steps_of
from tests.stand import (
    Fake,
    Gateway,
    chat_chunk,
    chunked,
    events_of,
    free_port,
    http,
    json_steps,
    said,
    sse,
    wait_until,
)

pytestmark = pytest.mark.services
RELAY = {
    "connect_timeout_s": 0.5,
    "first_byte_timeout_s": 0.6,
    "first_event_timeout_s": 0.6,
    "idle_timeout_s": 0.5,
    "max_answer_bytes": 32_768,
    "max_event_bytes": 8_000,
}
PATIENT = {"eject_after_failures": 1000, "rest_at_most_s": 0.001}
IMPATIENT = {"eject_after_failures": 1, "eject_for_s": 0.001, "eject_at_most_s": 0.001}
ADDRESSES = ("127.0.0.1", "127.1", "127.0.1", "0x7f.1", "0177.1")
"""One and the same: replicas are told apart by their URLs, and those of a pair should be picked in turns."""
NO_SCRIPT = ("connection-refused", "connection-not-accepted", "name-does-not-resolve", "tls-fails")
ROWS = rows()


def ids(row: Row) -> str:
    return f"fault-{row.fault}-{row.answer}"


class Stand:
    """A replica that fails, one that does not, and models in front of one or both."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.bad, self.good = self._fake(folder / "bad", stack), self._fake(folder / "good", stack)
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        port = full.getsockname()[1]
        for _ in range(4):  # nobody accepts; from now on a connection is not even answered
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", port))
        ways = {
            "script": f"http://{{}}:{self.bad.port}",
            "connection-refused": f"http://{{}}:{free_port()}",
            "connection-not-accepted": f"http://{{}}:{port}",
            "name-does-not-resolve": "http://{}.invalid:8000",
            "tls-fails": f"https://{{}}:{self.bad.port}",
        }
        models: list[dict[str, Any]] = []
        for number, (name, url) in enumerate(ways.items()):
            alone, beside = url.format(ADDRESSES[0]), url.format(ADDRESSES[1])
            good = f"http://{ADDRESSES[number]}:{self.good.port}"
            models.append({"name": f"{name}-alone", "replicas": [{"url": alone}]})
            models.append({"name": f"{name}-beside", "replicas": [{"url": beside}, {"url": good}]})
        self.alone = self._gateway(folder / "alone", models, stack, RELAY, IMPATIENT)
        self.beside = self._gateway(folder / "beside", models, stack, RELAY, PATIENT)
        talkative = RELAY | {"comment_after_s": 0.2, "first_event_timeout_s": 10}
        self.talkative = self._gateway(folder / "talkative", models, stack, talkative, PATIENT)

    @staticmethod
    def _gateway(
        folder: Path, models: list[dict[str, Any]], stack: ExitStack, relay: dict[str, Any], health: dict[str, Any]
    ) -> Gateway:
        folder.mkdir()
        routing = {"health": health, "retries": {"budget_size": 1000, "backoff_s": 0.001}}
        made = Gateway(folder, [], models=models, settings={"relay": relay, "routing": routing})
        stack.callback(made.process.stop)
        return made

    def gateway_for(self, row: Row, which: str) -> Gateway:
        """The gateway that the row is shown with."""
        if "after-a-comment" in row.fault:
            return self.talkative
        return self.alone if which == "alone" else self.beside

    @staticmethod
    def _fake(folder: Path, stack: ExitStack) -> Fake:
        folder.mkdir()
        made = Fake(folder)
        stack.callback(lambda: made.process.stop())  # it may be another process by then
        return made

    def ask(self, row: Row, which: str) -> httpx.Response:
        """One request of the row's kind; `which` is `alone` or `beside`."""
        streamed = row.answer != "whole"
        script = f"{row.fault}-{row.answer}"
        model = f"{row.fault}-{which}"
        if row.fault not in NO_SCRIPT:
            self.bad.script(script, *steps_of(row))
            model = f"script-{which}"
        self.good.script(script, *GOOD["stream" if streamed else "whole"])
        body: dict[str, Any] = {"model": model, "stream": streamed, "fake_script": script, "n": 1}
        headers = {}
        if row.fault == "callers-time-is-over":
            headers["x-tidegate-timeout-ms"] = "300"
        if row.fault == "answers-before-the-body-is-sent":
            http.put(f"{self.bad.url}/__early/{script}")
            body["filler"] = "x" * 10_000_000
        return self.gateway_for(row, which).post({**body, "messages": []}, headers=headers)


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with ExitStack() as stack:
        yield Stand(tmp_path_factory.mktemp("faults"), stack)


def line_of(gateway: Gateway, answer: httpx.Response) -> dict[str, Any]:
    """The log line of a request, which is written when its answer is over."""
    wanted = answer.headers["x-tidegate-request-id"]
    found = wait_until(lambda: [line for line in gateway.log_lines("request") if line["request_id"] == wanted])
    return dict(found[0])


@pytest.mark.parametrize("row", ROWS, ids=ids)
def test_the_caller_sees_what_the_table_says(stand: Stand, row: Row) -> None:
    gateway = stand.gateway_for(row, "alone")
    ejections = len(gateway.log_lines("replica_ejected"))
    answer = stand.ask(row, "alone")
    line_of(gateway, answer)
    assert (len(gateway.log_lines("replica_ejected")) > ejections) == (row.blamed == "yes")
    status, _, event = row.status.partition(", ")
    assert answer.status_code == int(status), answer.text
    assert answer.text.count(": keep-alive") < 30, "comments are no progress: there would have been sixty"
    if event:
        *before, last = events_of(answer.text.replace(": keep-alive\n\n", "").replace(": waiting\n\n", ""))
        assert expects_error(row, last) and "[DONE]" not in answer.text
        assert said([item for item in before if item["choices"][0]["index"] == 0]) == (
            "a" if row.answer == "begun" else ""
        )
    else:
        assert expects_error(row, answer.json()), answer.text
        assert answer.headers.get("x-should-retry") == row.should_retry
        low, _, high = row.retry_after.partition("–")
        waits = answer.headers.get("retry-after")
        assert (int(low) <= int(waits or -1) <= int(high or low)) if low else waits is None


def test_a_connection_on_which_a_body_was_left_unsent_is_not_used_again(stand: Stand) -> None:
    row = next(row for row in ROWS if row.fault == "answers-before-the-body-is-sent")
    assert stand.ask(row, "alone").status_code == 413
    assert stand.alone.chat(model="script-alone", max_tokens=1).status_code == 200


@pytest.mark.parametrize("row", ROWS, ids=ids)
def test_another_replica_takes_over_where_the_table_says_so(stand: Stand, row: Row) -> None:
    seen = []
    for _ in range(2):  # the replicas take turns
        answer = stand.ask(row, "beside")
        good = answer.status_code == 200 and "good" in answer.text and "error" not in answer.text
        seen.append((good, [item["code"] for item in line_of(stand.gateway_for(row, "beside"), answer)["tried"] or []]))
    assert all(good for good, _ in seen) == (row.other_replica == "yes"), seen
    assert any(good for good, _ in seen), "one of two requests meets the good replica first"
    assert row.other_replica == "no" or any(tried for _, tried in seen), seen


def test_a_stream_that_breaks_off_is_written_down_as_that(stand: Stand) -> None:
    row = next(row for row in ROWS if (row.fault, row.answer) == ("connection-cut", "begun"))
    answer = stand.ask(row, "alone")
    found = stand.alone.usage_of(answer.headers["x-tidegate-request-id"])
    assert (found["outcome"], found["usage_source"], found["output_tokens"]) == ("upstream_error", "counted", 1)


def test_every_row_of_the_second_table_has_a_test_named_after_it() -> None:
    tests = {name.removeprefix("test_fault_").replace("_", "-") for name in globals() if name.startswith("test_fault_")}
    assert set(other_faults()) == tests


def test_fault_dead_pooled_connection(stand: Stand, own_gateway: Any) -> None:
    gateway = own_gateway([stand.good.url])
    for stream in (False, True):
        assert gateway.chat(stream=stream, max_tokens=1).status_code == 200
        stand.good.process.kill()
        stand.good.start()
        assert "tok" in gateway.chat(stream=stream, max_tokens=1).text
    assert [line["tried"] for line in gateway.log_lines("request")] == [None] * 4


def test_fault_more_than_one_answer(stand: Stand, own_gateway: Any) -> None:
    gateway = own_gateway([stand.bad.url])
    other = json_steps({"choices": [{"index": 0, "message": {"content": "of somebody else"}}]})
    for form in ("whole", "stream"):
        for behind in (other[0]["send"], "HTTP/1.1 200"):
            stand.bad.script("twice", {"send": "".join(step["send"] for step in GOOD[form]) + behind})
            for _ in range(3):
                answer = gateway.chat(stream=form == "stream", fake_script="twice")
                assert answer.status_code == 200 and "good" in answer.text and "somebody" not in answer.text
                assert "tok" in gateway.chat(max_tokens=1).text
    assert {line["outcome"] for line in gateway.log_lines("request")} == {"ok"}
    assert [line["tried"] for line in gateway.log_lines("request")] == [None] * 24


def test_fault_upstream_restarts(stand: Stand, own_gateway: Any) -> None:
    health = {"eject_for_s": 0.2, "slow_start_s": 0.1}
    gateway = own_gateway([stand.bad.url, stand.good.url], settings={"routing": {"health": health}})
    results: list[httpx.Response] = []
    done = threading.Event()

    def keep_asking() -> None:
        while not done.is_set():
            results.append(gateway.chat(stream=len(results) % 2 == 0, max_tokens=20, fake_pace_ms=5))

    askers = [threading.Thread(target=keep_asking) for _ in range(4)]
    for asker in askers:
        asker.start()
    try:
        for _ in range(3):
            wait_until(lambda: stand.bad.truth()["open_requests"] > 0)
            stand.bad.process.kill()
            stand.bad.start()
    finally:
        done.set()
        for asker in askers:
            asker.join()
    for answer in results:
        assert answer.status_code == 200
        ended = events_of(answer.text)[-1] if answer.text.startswith("data:") else "[DONE]"
        assert ended == "[DONE]" or ended["error"]["code"] == "upstream_broken"
    cut = [answer for answer in results if "upstream_broken" in answer.text]
    assert len(cut) <= 3 * 4 and len(results) > 20
    assert all(line["outcome"] in ("ok", "upstream_error") for line in gateway.log_lines("request"))


def test_fault_all_replicas_down(own_gateway: Any) -> None:
    dead = [f"http://127.0.0.1:{free_port()}" for _ in range(2)]
    gateway = own_gateway(dead)
    answer = gateway.chat()
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "upstream_unavailable")
    assert (answer.headers["retry-after"], answer.headers["x-should-retry"]) == ("1", "true")
    tried = [item["replica"] for item in line_of(gateway, answer)["tried"]]
    assert len(tried) == 3 and tried[0] != tried[1] != tried[2]


def test_fault_stuck_while_healthy(stand: Stand, own_gateway: Any) -> None:
    settings = {"relay": {"first_event_timeout_s": 0.4, "first_byte_timeout_s": 0.4}}
    gateway = own_gateway([stand.bad.url, stand.good.url], settings=settings)
    assert http.get(f"{stand.bad.url}/health").status_code == 200
    stand.bad.script("stuck", {"stall": True})
    stand.good.script("stuck", *GOOD["stream"])
    answers = [gateway.chat(stream=True, fake_script="stuck") for _ in range(12)]
    assert all("good" in answer.text and "error" not in answer.text for answer in answers)
    lines = [line_of(gateway, answer) for answer in answers]
    assert sum(bool(line["tried"]) for line in lines) == 3
    (ejected,) = gateway.log_lines("replica_ejected")
    assert (ejected["replica"], ejected["code"], ejected["for_s"]) == (stand.bad.url, "upstream_timeout", 10)
    metrics = gateway.metrics()
    assert metrics[f'tidegate_replica_ejections_total{{replica="{stand.bad.url}"}}'] == 1
    name = "tidegate_upstream_attempts_total"
    assert metrics[f'{name}{{replica="{stand.bad.url}",result="upstream_timeout"}}'] == 3
    assert metrics[f'{name}{{replica="{stand.good.url}",result="ok"}}'] == 12
    assert metrics['tidegate_upstream_retries_total{model="m",reason="upstream_timeout"}'] == 3


def test_a_replica_that_came_back_is_probed_and_serves_again(stand: Stand, own_gateway: Any) -> None:
    health = {"eject_after_failures": 1, "eject_for_s": 0.3, "slow_start_s": 0.2}
    gateway = own_gateway([stand.bad.url, stand.good.url], settings={"routing": {"health": health}})
    stand.bad.script("down", *json_steps({}, 503))
    stand.good.script("down", *GOOD["whole"])
    wait_until(lambda: line_of(gateway, gateway.chat(fake_script="down"))["tried"])

    def probed() -> bool:
        line = line_of(gateway, gateway.chat(max_tokens=1))
        return bool(line["replica"] == stand.bad.url and line["pick"] == "probe after ejection")

    wait_until(probed, 3, "a probe")
    wait_until(lambda: line_of(gateway, gateway.chat(max_tokens=1))["replica"] == stand.bad.url, 3, "its usual share")


def test_a_silent_stream_gets_comments_and_may_still_fail_over(stand: Stand, own_gateway: Any) -> None:
    relay = {"comment_after_s": 0.2, "first_event_timeout_s": 0.8}
    gateway = own_gateway([stand.bad.url, stand.good.url], settings={"relay": relay})
    stand.bad.script("silent", {"stall": True})
    stand.good.script("silent", {"sleep_ms": 300}, *GOOD["stream"])
    for _ in range(2):
        answer = gateway.chat(stream=True, fake_script="silent")
        assert answer.text.startswith(": waiting\n\n") and "good" in answer.text and answer.text.endswith("[DONE]\n\n")
    assert max(answer.text.count(": waiting"), 2) >= 2
    assert any(line["tried"] for line in gateway.log_lines("request"))


def test_a_silence_in_mid_stream_gets_comments_too(stand: Stand, own_gateway: Any) -> None:
    gateway = own_gateway([stand.good.url], settings={"relay": {"comment_after_s": 0.2}})
    stand.good.script("pause", *begun({"sleep_ms": 700}, {"send": chunks_of("stop")}))
    answer = gateway.chat(stream=True, fake_script="pause")
    assert answer.text.count(": waiting\n\n") in (2, 3) and answer.text.endswith("[DONE]\n\n")


@pytest.mark.parametrize("events_at_once", [1, 2, 5])
def test_a_stream_that_goes_on_in_bursts_is_not_silent(stand: Stand, own_gateway: Any, events_at_once: int) -> None:
    relay = {"idle_timeout_s": 0.5, "first_event_timeout_s": 0.5}
    gateway = own_gateway([stand.good.url], settings={"relay": relay})
    burst = {"send": chunked(sse(*[chat_chunk("a")] * events_at_once))}
    stand.good.script("bursts", *begun(*[{"sleep_ms": 150}, burst] * 10, {"send": chunks_of("stop")}))
    answer = gateway.chat(stream=True, fake_script="bursts")
    assert answer.text.endswith("[DONE]\n\n") and said(events_of(answer.text)) == "a" * (1 + 10 * events_at_once)


def chunks_of(finish: str) -> str:
    """The rest of a stream."""
    text = sse(chat_chunk(finish=finish), "[DONE]")
    return f"{len(text):x}\r\n{text}\r\n0\r\n\r\n"


def test_retries_have_a_budget(own_gateway: Any) -> None:
    dead = [f"http://127.0.0.1:{free_port()}" for _ in range(2)]
    budget = {"budget_size": 3, "budget_ratio": 0.5, "budget_per_s": 0}
    gateway = own_gateway(dead, settings={"routing": {"retries": budget}})
    attempts = [len(line_of(gateway, gateway.chat())["tried"]) for _ in range(7)]
    assert attempts == [3, 2, 2, 1, 2, 1, 2]
    metrics = gateway.metrics()
    assert metrics['tidegate_upstream_retries_total{model="m",reason="upstream_unavailable"}'] == 6
    assert metrics['tidegate_upstream_retries_refused_total{model="m"}'] == 6


@pytest.mark.parametrize(
    ("header", "stream", "obeyed"),
    [
        ({"x-tidegate-timeout-ms": "500"}, True, True),
        ({"x-tidegate-timeout-ms": "500"}, False, True),
        ({"x-stainless-read-timeout": "0.5"}, False, True),
        ({"x-stainless-read-timeout": "0.5"}, True, False),
        ({"x-stainless-read-timeout": "None"}, False, False),
    ],
)
def test_no_attempt_goes_beyond_the_deadline(
    stand: Stand, own_gateway: Any, header: dict[str, str], stream: bool, obeyed: bool
) -> None:
    relay = {"first_event_timeout_s": 0.3, "first_byte_timeout_s": 0.3}
    gateway = own_gateway([stand.bad.url, stand.good.url], settings={"relay": relay})
    for fake in (stand.bad, stand.good):
        fake.script("never", {"stall": True})
    stand.bad.forget(), stand.good.forget()
    answer = gateway.chat(stream=stream, headers=header, fake_script="never")
    expected = "deadline_exceeded" if obeyed else "upstream_timeout"
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, expected)
    assert answer.headers["x-should-retry"] == ("false" if obeyed else "true")
    for fake in (stand.bad, stand.good):
        wait_until(lambda fake=fake: fake.truth()["open_requests"] == 0, 1)
    attempts = stand.bad.truth()["requests"] + stand.good.truth()["requests"]
    assert attempts in (1, 2) if obeyed else attempts == 2
    row = gateway.usage_of(answer.headers["x-tidegate-request-id"])
    assert (row["outcome"], row["usage_source"]) == ("cancelled" if obeyed else "upstream_error", "estimated")


def test_a_timeout_that_is_no_number_is_refused(stand: Stand) -> None:
    for wrong in ("soon", "0", "-5", "1.5"):
        answer = stand.beside.chat(model="script-beside", headers={"x-tidegate-timeout-ms": wrong})
        assert answer.status_code == 400 and "x-tidegate-timeout-ms" in answer.json()["error"]["message"]


def test_a_stream_that_fails_leaves_no_connection_behind(stand: Stand) -> None:
    wait_until(lambda: stand.bad.truth()["open_requests"] == 0, 3)
