"""What limits cost that all gateways share in Redis, beside limits of the process and beside vllm-router, which has none.

Like `benchmarks.overhead`: one run, interleaved rounds, the system under test on core 0; Redis shares the other core with the
upstream and the load. Every request takes part in a limit per minute and in one of requests at once.

Usage: `python -m benchmarks.limits [--rounds 5]`. Writes benchmarks/results/limits.json.
"""

import argparse
import json
from contextlib import ExitStack
from typing import Any

from benchmarks import performance
from benchmarks.overhead import take_rows
from benchmarks.stage import OTHER_CORE, ROOT, check_books, circumstances, stage, store
from tests.stand import free_port

RESULT = ROOT / "benchmarks" / "results" / "limits.json"
PLAN = (("json", 1, 1500), ("json", 16, 4000), ("json", 64, 4000), ("burst", 16, 2000))


def run(rounds: int) -> dict[str, Any]:
    """Everything; the result as it is written."""
    with stage() as made, ExitStack() as stack:
        (store_url, store_name), (other_url, _) = (stack.enter_context(store()) for _ in range(2))
        direct, port = made.start_upstream(), free_port()
        redis = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(made.folder)]
        made.run(OTHER_CORE, redis, "redis")
        limits = {"store": "redis", "redis": {"url": f"redis://127.0.0.1:{port}"}}
        ours = [made.start_tidegate(store_url), made.start_tidegate(other_url, "tidegate-redis", limits=limits)]
        rows = take_rows([direct, *ours, made.start_vllm_router()], rounds, 1, PLAN)
        for system in ours:
            check_books(system)
        assert "limit_store_away" not in (made.folder / "tidegate-redis.log").read_text()
    return {**circumstances(), "store": store_name, "rounds": rounds, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    RESULT.write_text(json.dumps(run(parser.parse_args().rounds), indent=1) + "\n")
    performance.write()
    print(f"wrote {RESULT.relative_to(ROOT)} and the tables of docs/performance.md")


if __name__ == "__main__":
    main()
