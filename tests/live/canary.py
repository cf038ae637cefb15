"""Canaries: a card number and sentences sent through every journey, and the search for what is left of them.

Each sentence takes one way and so tells by itself which way it was kept on. Words are random, so nothing else holds them.
"""

import base64
import mmap
import secrets
import string
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import qdrant_edge as edge
from mcp.shared.exceptions import MCPError
from openai import OpenAI

from tests.guardrails.cards import complete
from tests.stand import http, wait_until
from tests.tool_stand import call
from tidegate.local.stack import Running

WAYS = (
    "chat", "completion", "embeddings", "question", "masked chat", "masked file", "masked response", "file", "deleted file",
    "response", "deleted response", "unkept response", "tool argument", "agent tool", "search",
)  # fmt: skip


def _card() -> str:
    return complete("4929" + "".join(secrets.choice(string.digits) for _ in range(11)))


def _word() -> str:
    return "".join(secrets.choice(string.ascii_lowercase) for _ in range(24))


@dataclass
class Canaries:
    """What is sent, and where it may be found afterwards."""

    card: str = field(default_factory=_card)
    words: dict[str, str] = field(default_factory=lambda: {way: _word() for way in WAYS})
    made_at: float = field(default_factory=time.time)

    @property
    def grouped(self) -> str:
        """The card number as people write it."""
        return " ".join(self.card[at : at + 4] for at in range(0, 16, 4))

    def sentence(self, way: str) -> str:
        """What takes this way."""
        return f"The {self.words[way]} counts seven brass rivets at dawn."

    def card_needles(self) -> list[bytes]:
        """Every form in which the card number could lie somewhere."""
        forms = {sep.join(self.card[at : at + 4] for at in range(0, 16, 4)) for sep in ("", " ", "-", ".")}
        return [needle for form in sorted(forms) for needle in needles(form)]


def needles(text: str) -> list[bytes]:
    """`text` raw, in UTF-16, and in base64 at each of the three places where it can begin."""
    data = text.encode()
    encoded = []
    for shift in range(3):
        whole = base64.b64encode(b"\0" * shift + data)
        first, last = -(-shift * 8 // 6), (shift + len(data)) * 8 // 6
        encoded.append(whole[first:last])
    return [
        data,
        text.encode("utf-16-le"),
        *encoded,
        *(item.replace(b"+", b"-").replace(b"/", b"_") for item in encoded),
    ]


def files_with(folders: list[Path], wanted: list[bytes], *, since: float = 0) -> list[Path]:
    """Every file below `folders` that holds one of `wanted`; those last written before `since` cannot."""
    files = (path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file())
    return [path for path in files if path.stat().st_mtime >= since and _holds(path, wanted)]


def _holds(path: Path, wanted: list[bytes]) -> bool:
    if not path.stat().st_size:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return any(data.find(needle) >= 0 for needle in wanted)


def payloads(knowledge: Path) -> Iterator[str]:
    """Everything in the indexes, uncompressed; the service must not run."""
    for current in knowledge.glob("*/indexes/current"):
        shard = edge.EdgeShard.load(str(current.parent / current.read_text()))
        offset = None
        while True:
            records, offset = shard.scroll(edge.ScrollRequest(limit=500, offset=offset, with_payload=True))
            yield from (str(record.payload) for record in records)
            if offset is None:
                break
        shard.close()


class Sender:
    """Sends the canaries through every journey."""

    def __init__(self, canaries: Canaries, running: Running, masked_key: str) -> None:
        self.canaries = canaries
        self.client = OpenAI(base_url=running.base_url, api_key=running.api_key, max_retries=0, timeout=120)
        self.masked = OpenAI(base_url=running.base_url, api_key=masked_key, max_retries=0, timeout=120)
        self.door = running.base_url.removesuffix("/v1")
        self.key, self.model, self.preset = running.api_key, running.model, running.presets[0]

    def send_sentences(self) -> None:
        """Every way a text can take; `deleted …` ways are taken back again."""
        say, client, model = self.canaries.sentence, self.client, self.model
        chat = client.chat.completions
        chat.create(model=model, messages=[{"role": "user", "content": say("chat")}], max_tokens=2)
        list(chat.create(model=model, messages=[{"role": "user", "content": say("chat")}], max_tokens=2, stream=True))
        client.completions.create(model=model, prompt=say("completion"), max_tokens=2)
        client.embeddings.create(model="all-minilm-l6-v2", input=[say("embeddings")])
        store = client.vector_stores.create(name="handbook")  # one of the preset's, by its name
        chat.create(model=self.preset, messages=[{"role": "user", "content": say("question")}], max_tokens=2)
        for way in ("file", "deleted file"):
            made = client.files.create(file=(f"{way}.md", f"# Rivets\n\n{say(way)}".encode()), purpose="assistants")
            client.vector_stores.files.create_and_poll(made.id, vector_store_id=store.id)
            found = client.vector_stores.search(store.id, query=f"{say(way)} {say('search')}").data
            assert self.canaries.words[way] in str(found)
            if way == "deleted file":
                client.files.delete(made.id)
        say_nothing: Any = {"model": model, "max_output_tokens": 2}
        client.responses.create(input=say("response"), **say_nothing)
        gone = client.responses.create(input=say("deleted response"), **say_nothing)
        client.responses.delete(gone.id)
        client.responses.create(input=say("unkept response"), store=False, **say_nothing)
        assert self.canaries.words["tool argument"] in str(
            call(f"{self.door}/mcp", self.key, "faulty__echo", text=say("tool argument"))
        )
        tool: Any = {"type": "mcp", "server_label": "faulty", "allowed_tools": ["leak"], "require_approval": "never"}
        agent = client.responses.create(
            model=model, input=say("agent tool"), tools=[tool], tool_choice={"type": "mcp", "server_label": "faulty"},
            store=False, max_output_tokens=256,
        )  # fmt: skip
        assert "withheld" in str(agent.output), agent.output

    def send_card(self) -> None:
        """Every way, refused each time; under a policy that masks it passes masked."""
        card, client, model = self.canaries.grouped, self.client, self.model
        user: Any = [{"role": "user", "content": f"charge {card}"}]
        store = client.vector_stores.create(name="no cards")
        tool = f"{self.door}/mcp"
        ways: list[Callable[[], Any]] = [
            lambda: client.chat.completions.create(model=model, messages=user),
            lambda: client.chat.completions.create(model=model, messages=user, stream=True),
            lambda: client.chat.completions.create(model=self.preset, messages=user),
            lambda: client.completions.create(model=model, prompt=card),
            lambda: client.embeddings.create(model="all-minilm-l6-v2", input=card),
            lambda: client.files.create(file=("card.md", card.encode()), purpose="assistants"),
            lambda: client.files.create(file=(f"{card}.md", b"nothing"), purpose="assistants"),
            lambda: client.vector_stores.create(name=card),
            lambda: client.vector_stores.search(store.id, query=card),
            lambda: client.responses.create(model=model, input=card),
            lambda: client.responses.create(model=model, input="?", instructions=card, stream=True),
            lambda: client.responses.create(model=model, input="?", metadata={"card": card}),
            lambda: call(tool, self.key, "faulty__echo", text=card),
        ]
        for number, way in enumerate(ways):
            try:
                way()
            except (openai.BadRequestError, MCPError) as error:
                assert "card number" in str(error) and card not in str(error), error
            else:
                raise AssertionError(f"way {number} let a card number pass")
        assert "withheld" in str(call(tool, self.key, "faulty__leak"))
        self._let_the_model_say_it()
        self._send_masked()

    def _let_the_model_say_it(self) -> None:
        pattern = "".join(f"[{digit}]" for digit in self.canaries.card)
        schema = {
            "type": "object",
            "properties": {"n": {"type": "string", "pattern": f"^{pattern}$"}},
            "required": ["n"],
        }
        grammar: Any = {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": schema}}
        for stream in (False, True):
            answer = self.client.chat.completions.create(
                model=self.model, messages=[{"role": "user", "content": "A number."}], response_format=grammar,
                max_tokens=60, stream=stream,
            )  # fmt: skip
            told = [chunk.model_dump_json() for chunk in answer] if stream else [answer.model_dump_json()]
            assert "content_filter" in told[-1] and self.canaries.card not in "".join(told), told

    def _send_masked(self) -> None:
        say, client = self.canaries.sentence, self.masked
        both = {way: f"{say(way)} The card is {self.canaries.grouped}." for way in WAYS if way.startswith("masked")}
        user: Any = [{"role": "user", "content": both["masked chat"]}]
        client.chat.completions.create(model=self.model, messages=user, max_tokens=2)
        client.responses.create(model=self.model, input=both["masked response"], max_output_tokens=2)
        store = client.vector_stores.create(name="masked")
        file = client.files.create(file=("masked.md", both["masked file"].encode()), purpose="assistants")
        client.vector_stores.files.create_and_poll(file.id, vector_store_id=store.id)
        found = str(client.vector_stores.search(store.id, query="which card?").data)
        assert self.canaries.words["masked file"] in found and self.canaries.grouped not in found

    def close(self) -> None:
        """Closes the connections."""
        self.client.close()
        self.masked.close()

    def wait_forgotten(self, knowledge: Path) -> None:
        """Until what was deleted has left the knowledge service's folder: the next index is built without it."""
        gone = needles(self.canaries.words["deleted file"])
        wait_until(lambda: not files_with([knowledge], gone), 30, "the deleted file to leave the disk")


def metrics_of(urls: list[str]) -> str:
    """What every process counts."""
    return "\n".join(http.get(f"{url}/metrics").text for url in urls)
