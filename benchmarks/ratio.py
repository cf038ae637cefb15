"""How much more CPU the gateway takes than a relay that does nothing but relay, for the gate in the tests.

Both in one run, in interleaved pairs, so that the machine's mood cancels out. `python -m benchmarks.ratio` records the ratios in
benchmarks/results/ratio.json; the gate is red only where a ratio is half as much again.
"""

import json
import statistics
from typing import Any

from benchmarks import performance
from benchmarks.overhead import measure
from benchmarks.stage import ROOT, System, check_books, circumstances, stage, store

RESULT = ROOT / "benchmarks" / "results" / "ratio.json"
PAIRS = 5
PLAN = (("json", 16, 1500), ("burst", 16, 800), ("paced", 16, 16))
LARGE_BYTES, SMALL_BYTES = 400_000, 4_000


def ratios(pairs: int = PAIRS) -> dict[str, float]:
    """By mode: the median of the pairs' ratios."""
    with stage() as made, store() as (store_url, _):
        made.start_upstream()
        ours, reference = made.start_tidegate(store_url), made.start_reference()
        for system in (ours, reference):
            for mode, _, _ in PLAN:
                measure(system, mode, 4, 16)
        found: dict[str, list[float]] = {}
        for _ in range(pairs):
            for mode, connections, requests in PLAN:
                costs = [measure(system, mode, connections, requests) for system in (ours, reference)]
                found.setdefault(mode, []).append(costs[0]["cpu_us_per_request"] / costs[1]["cpu_us_per_request"])
        check_books(ours)
    return {mode: round(statistics.median(values), 2) for mode, values in found.items()}


def sizes(pairs: int = PAIRS) -> dict[str, Any]:
    """What prompts of 4 and of 400 KB cost, beyond what the bytes' own way costs; CPU in microseconds per request."""
    with stage() as made, store() as (store_url, _):
        made.start_upstream()
        ours, reference = made.start_tidegate(store_url), made.start_reference()
        found: dict[str, list[float]] = {}
        for _ in range(pairs):
            for size, requests in ((SMALL_BYTES, 1500), (LARGE_BYTES, 300)):
                for system in (ours, reference):
                    found.setdefault(f"{system.name} {size}", []).append(_cost(system, size, requests))
    medians = {name: round(statistics.median(values), 1) for name, values in found.items()}
    beyond = {size: medians[f"tidegate {size}"] - medians[f"reference {size}"] for size in (SMALL_BYTES, LARGE_BYTES)}
    return medians | {
        "beyond the bytes' own way": {str(size): round(value, 1) for size, value in beyond.items()},
        "ratio": round(beyond[LARGE_BYTES] / beyond[SMALL_BYTES], 2),
    }


def _cost(system: System, size: int, requests: int) -> float:
    prompt = ("Summarise the settlement procedure for card payments in two sentences.\n" * (size // 70))[:size]
    return measure(system, "json", 4, requests, prompt=prompt)["cpu_us_per_request"]


def main() -> None:
    result = {
        **circumstances(),
        "pairs": PAIRS,
        "ratios": ratios(),
        "prompt sizes": sizes(),
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    performance.write()
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
