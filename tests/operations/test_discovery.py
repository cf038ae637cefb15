"""Replicas that are found by name: in a file of hosts of the gateway's own, so by the machine's real resolver."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.stand import Fake, Gateway, chat_chunk, free_port, sse, stream_steps, wait_until

pytestmark = pytest.mark.services
NAME = "vllm.example.internal"
ADDRESSES = ("127.0.0.2", "127.0.0.3", "127.0.0.4")


class Site:
    """Three model servers on one port, a name for some of them, and a gateway that knows the name alone."""

    def __init__(self, folder: Path, build: Any) -> None:
        port = free_port()
        self.fakes = {address: Fake(folder / address, address, port) for address in ADDRESSES}
        self._hosts = folder / "hosts"
        self.name_them(*ADDRESSES[:2])
        script = 'mount --bind "$0" /etc/hosts && exec "$@"'
        self._build = build
        self._options: dict[str, Any] = {
            "models": [{"name": "m", "replicas": [{"url": f"http://{NAME}:{port}", "discovery": "dns"}]}],
            "settings": {"routing": {"discovery_interval_s": 0.2}},
            "within": ["unshare", "--map-root-user", "--mount", "sh", "-c", script, str(self._hosts)],
        }

    def name_them(self, *addresses: str) -> None:
        """From here on the name has these addresses."""
        self._hosts.write_text("".join(f"{address} {NAME}\n" for address in addresses) + "127.0.0.1 localhost\n")

    def gateway(self) -> Gateway:
        made: Gateway = self._build(**self._options)
        return made

    def asked(self, gateway: Gateway, requests: int = 6) -> set[str]:
        """The addresses that so many requests went to; every one must be answered."""
        for fake in self.fakes.values():
            if fake.process.popen.poll() is None:
                fake.forget()
        assert [gateway.chat(max_tokens=1).status_code for _ in range(requests)] == [200] * requests
        alive = {address: fake for address, fake in self.fakes.items() if fake.process.popen.poll() is None}
        return {address for address, fake in alive.items() if fake.truth()["requests"]}


@pytest.fixture
def site(tmp_path: Path, own_gateway: Any) -> Iterator[Site]:
    for address in ADDRESSES:
        (tmp_path / address).mkdir()
    made = Site(tmp_path, own_gateway)
    yield made
    for fake in made.fakes.values():
        fake.process.stop()


def test_every_address_of_a_name_is_a_replica_of_its_own(site: Site) -> None:
    gateway = site.gateway()
    assert site.asked(gateway) == {"127.0.0.2", "127.0.0.3"}
    site.fakes["127.0.0.2"].process.kill()
    assert site.asked(gateway) == {"127.0.0.3"}
    site.name_them("127.0.0.3", "127.0.0.4")
    wait_until(lambda: site.asked(gateway) == {"127.0.0.3", "127.0.0.4"}, 10, "the new replica")


def test_a_stream_outlives_the_name_of_its_replica(site: Site) -> None:
    site.name_them("127.0.0.2")
    gateway = site.gateway()
    events = [sse(chat_chunk(f"{number}")) for number in range(8)] + [sse(chat_chunk(finish="stop"), "[DONE]")]
    for fake in site.fakes.values():
        fake.script("long", *stream_steps(*events, pause_ms=200))
    with gateway.open_stream(fake_script="long") as answer:
        pieces = answer.iter_bytes()
        text = next(pieces)
        site.name_them("127.0.0.3")
        wait_until(lambda: site.asked(gateway, 1) == {"127.0.0.3"}, 10, "the other replica")
        text += b"".join(pieces)
    assert text.endswith(b"data: [DONE]\n\n") and text.count(b"data: ") == 10


def test_a_name_that_is_not_known_any_more_changes_nothing(site: Site) -> None:
    gateway = site.gateway()
    site.name_them()
    wait_until(lambda: gateway.log_lines("replicas_not_found"), 10, "the failed look")
    assert site.asked(gateway) == {"127.0.0.2", "127.0.0.3"}


def test_a_name_that_is_not_known_yet_is_an_error_until_it_is(site: Site) -> None:
    site.name_them()
    gateway = site.gateway()
    refused = gateway.chat()
    assert refused.status_code == 503 and refused.json()["error"]["code"] == "upstream_unavailable"
    site.name_them("127.0.0.4")
    wait_until(lambda: gateway.chat(max_tokens=1).status_code == 200, 10, "the replica")
    assert [line["count"] for line in gateway.log_lines("replicas_found")] == [1]
