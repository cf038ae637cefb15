"""Answers come out byte for byte, however they are written and however the network cuts them.

`tests/golden` has what a real vLLM answered; the fake upstream plays it back.
"""

import base64
import itertools
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.stand import Fake, Gateway, http

FOLDER = Path(__file__).parents[1] / "golden"
GOLDEN = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
STREAMS = [name for name, golden in GOLDEN.items() if golden["content_type"].startswith("text/event-stream")]
WHOLE = [name for name in GOLDEN if name not in STREAMS]


@pytest.fixture(scope="module")
def plain(fake: Fake, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A gateway without guardrails, which may therefore pass on what they could not read."""
    made = Gateway(tmp_path_factory.mktemp("plain"), [fake.url], policies=[{"name": "default"}])
    yield made
    made.process.stop()


def pieces(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    """`data` cut at these places."""
    at = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    return [data[begin:end] for begin, end in itertools.pairwise(at)]


def play(fake: Fake, status: int, content_type: str, body: bytes, cuts: Sequence[int], pause_ms: float = 1) -> str:
    """Stores a script that answers so, in TCP segments of its own as far as the system allows."""
    length = "transfer-encoding: chunked" if content_type.startswith("text/event") else f"content-length: {len(body)}"
    raw = f"HTTP/1.1 {status} X\r\ncontent-type: {content_type}\r\n{length}\r\n\r\n".encode()
    if "chunked" in length:
        raw += b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
    else:
        raw += body
    steps: list[dict[str, Any]] = []
    for piece in pieces(raw, cuts):
        steps += [{"sleep_ms": pause_ms}, {"send_b64": base64.b64encode(piece).decode()}]
    return fake.script("played", *steps)


def ask(gateway: Gateway, golden: dict[str, Any], script: str) -> httpx.Response:
    """The recorded request, for the model that is played back."""
    request = {"messages": [], **golden["request"], "model": "m", "fake_script": script}
    return gateway.post(request, path=golden["path"])


@pytest.mark.parametrize("name", WHOLE)
def test_recorded_answers_come_out_equal(plain: Gateway, fake: Fake, name: str) -> None:
    golden = GOLDEN[name]
    body = golden["body"].encode()
    answer = ask(
        plain, golden, play(fake, golden["status"], golden["content_type"], body, [random.Random(name).randrange(900)])
    )
    assert (answer.status_code, answer.content) == (golden["status"], body)
    assert answer.headers["content-type"] == golden["content_type"]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", STREAMS)
def test_recorded_streams_come_out_equal(plain: Gateway, fake: Fake, name: str, seed: int) -> None:
    golden = GOLDEN[name]
    body, chance = golden["body"].encode(), random.Random(seed)
    if golden["path"] != "/v1/messages" and not golden["request"].get("stream_options"):
        assert b'"choices":[]' not in body
    cuts = [chance.randrange(len(body) + 200) for _ in range((0, 5, 25, 60)[seed])]
    answer = ask(plain, golden, play(fake, 200, golden["content_type"], body, cuts))
    assert answer.content == body
    row = plain.usage_of(answer.headers["x-tidegate-request-id"])
    assert row["outcome"] == "ok" and row["output_tokens"] > 0


@pytest.mark.parametrize("name", [name for name in STREAMS if "usage" not in name and "token-ids" not in name])
def test_recorded_streams_pass_the_guardrails_unchanged(gateway: Gateway, fake: Fake, name: str) -> None:
    golden = GOLDEN[name]
    answer = ask(gateway, golden, play(fake, 200, golden["content_type"], golden["body"].encode(), range(0, 9000, 300)))
    assert answer.text == golden["body"]


@pytest.mark.parametrize("options", [None, {"include_usage": False}, {"continuous_usage_stats": True}])
def test_usage_that_was_not_asked_for_is_taken_out_and_nothing_else(plain: Gateway, fake: Fake, options: Any) -> None:
    body = GOLDEN["chat-stream-usage"]["body"]
    (usage,) = [event for event in body.split("\n\n") if '"choices":[]' in event]
    script = play(fake, 200, "text/event-stream", body.encode(), range(0, 9000, 500))
    fake.forget()
    asked = {"model": "m", "messages": [], "stream": True, "fake_script": script}
    answer = plain.post({**asked, **({"stream_options": options} if options else {})})
    assert answer.text == body.replace(usage + "\n\n", "")
    sent = json.loads(fake.seen()[0]["body"])["stream_options"]
    assert sent == {"include_usage": True}, "and no running counts, which vLLM would put into every chunk"
    row = plain.usage_of(answer.headers["x-tidegate-request-id"])
    assert row["usage_source"] == "reported" and row["input_tokens"] > 0


def test_running_counts_reach_who_asks_for_them(plain: Gateway, fake: Fake) -> None:
    fake.forget()
    golden = GOLDEN["chat-stream-usage-continuous"]
    answer = ask(plain, golden, play(fake, 200, "text/event-stream", golden["body"].encode(), []))
    assert answer.text == golden["body"] and answer.text.count('"usage":{') > 3
    assert json.loads(fake.seen()[0]["body"])["stream_options"] == golden["request"]["stream_options"]


END_OF_LINE = st.sampled_from(["\n", "\r\n"])
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Nd")), max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
UNKNOWN = st.dictionaries(TEXT.map("x_".__add__), JSON, max_size=2)


@st.composite
def events(draw: Any) -> str:
    """One event as a server may write it: comments, other fields, data over several lines, any line ends."""
    end = draw(END_OF_LINE)
    delta = draw(
        st.dictionaries(st.sampled_from(["content", "reasoning", "reasoning_content", "role"]), TEXT, max_size=2)
    )
    choice = {"index": 0, "delta": delta, **draw(UNKNOWN)}
    chunk = {"id": "c", "choices": [choice], **draw(UNKNOWN)}
    separators = draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", " : ")]))
    text = json.dumps(chunk, ensure_ascii=draw(st.booleans()), separators=separators)
    space = draw(st.sampled_from(["", " "]))
    lines = [f"data:{space}{line}" for line in text.split("\n")]
    other = st.sampled_from([": keep-alive", ":", "id: 7", "retry: 10", "event: message", "nonsense"])
    lines[:0] = draw(st.lists(other, max_size=2))
    if draw(st.booleans()):
        lines.insert(draw(st.integers(0, len(lines))), ": a comment")
    return end.join(lines) + end + end


STREAM = st.builds(
    lambda parts, end: (
        "".join(parts) + f'data: {{"choices":[{{"index":0,"delta":{{}},"finish_reason":"stop"}}]}}{end}{end}'
        f"data: [DONE]{end}{end}"
    ),
    st.lists(events() | END_OF_LINE.map(lambda end: f": ping{end}{end}"), max_size=6),
    END_OF_LINE,
)


@pytest.mark.parametrize("guarded", [False, True], ids=["plain", "guarded"])
def test_any_stream_cut_anywhere_comes_out_equal(gateway: Gateway, plain: Gateway, fake: Fake, guarded: bool) -> None:
    through = gateway if guarded else plain

    @settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(stream=STREAM, cuts=st.lists(st.integers(0, 5000), max_size=12))
    def check(stream: str, cuts: list[int]) -> None:
        script = play(fake, 200, "text/event-stream", stream.encode(), cuts, pause_ms=0)
        body = {"model": "m", "messages": [], "stream": True, "fake_script": script}
        answer = through.post({**body, "stream_options": {"include_usage": True}})
        assert answer.content == stream.encode()

    check()


def test_five_megabytes_pass_unchanged_and_are_not_copied_about(plain: Gateway, fake: Fake) -> None:
    from tests.gateway.test_relay import resident_mb

    image = base64.b64encode(random.Random(5).randbytes(3_750_000)).decode()
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}}
    raw = json.dumps({"model": "m", "messages": [{"role": "user", "content": [part]}], "max_tokens": 1}).encode()
    assert len(raw) > 5_000_000
    for stream in (False, True):
        fake.forget()
        sent = raw[:-1] + (b',"stream":true}' if stream else b"}")
        assert plain.post(sent).status_code == 200
        seen = fake.seen()[0]["body"]
        assert seen == (b'{"stream_options":{"include_usage":true},' + sent[1:] if stream else sent)
    before = resident_mb(plain)
    for _ in range(5):
        plain.post(raw)
    assert resident_mb(plain) - before < 12, "nothing of it stays"


def test_an_answer_of_the_fake_and_of_vllm_have_the_same_form(fake: Fake) -> None:
    """The fake stands for vLLM in most tests: what it says by itself must not be simpler than the real thing."""
    for name in ("chat", "completion", "message", "count-tokens", "tokenize", "detokenize"):
        golden = GOLDEN[name]
        said = http.post(f"{fake.url}{golden['path']}", json={"model": "m"}).json()
        assert said.keys() <= json.loads(golden["body"]).keys(), name
