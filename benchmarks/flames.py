"""Where the gateway's time goes: a flame picture of each mode, and the ten functions that take most of their own.

`python -m benchmarks.flames`, a minute; writes docs/flames/<mode>.svg and benchmarks/results/profile.json. Sampled by py-spy
from outside, with the load of `benchmarks.overhead`; time in the kernel stands with the function that asked for it.
"""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

from benchmarks import performance
from benchmarks.overhead import measure
from benchmarks.stage import ROOT, System, routers_env, stage, store

PICTURES = ROOT / "docs" / "flames"
RESULT = ROOT / "benchmarks" / "results" / "profile.json"
PLAN = (("json", 16, 4000), ("burst", 16, 2000), ("paced", 64, 192))
SECONDS, RATE = 10, 250


def record(system: System, mode: str, connections: int, requests: int, out: Path, form: str) -> None:
    """Samples the main thread while the load runs."""
    assert system.process is not None
    argv = [str(routers_env() / "py-spy"), "record", "--pid", str(system.process.popen.pid), "--duration", str(SECONDS)]
    argv += ["--rate", str(RATE), "--format", form, "--output", str(out)]
    spy = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while spy.poll() is None:
        measure(system, mode, connections, requests)


def without_paths(picture: Path) -> None:
    """Function names say enough; where this machine keeps its files is nobody's business."""
    text = picture.read_text()
    for folder in (f"{ROOT}/", f"{sys.prefix}/", f"{sys.base_prefix}/"):
        text = text.replace(folder, "")
    picture.write_text(text)


def main_thread(lines: list[str]) -> list[tuple[list[str], int]]:
    """Stacks of the event loop, without line numbers, and how often each was seen."""
    found = []
    for line in lines:
        stack, _, count = line.rpartition(" ")
        frames = [frame.rpartition(":")[0] + ")" if ":" in frame else frame for frame in stack.split(";")]
        if any(frame.startswith("run (uvloop") for frame in frames):
            found.append((frames, int(count)))
    return found


def top_ten(stacks: list[tuple[list[str], int]]) -> list[dict[str, object]]:
    """By the share of samples in which a function itself was running; idle waiting left out."""
    busy = [(frames, count) for frames, count in stacks if not frames[-1].startswith("run (asyncio")]
    total, own = sum(count for _, count in busy), Counter[str]()
    for frames, count in busy:
        own[frames[-1]] += count
    return [{"function": name, "share": round(count / total, 3)} for name, count in own.most_common(10)]


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    result = {}
    with stage() as made, store() as (store_url, _):
        made.start_upstream()
        system = made.start_tidegate(store_url, compiled=False)  # py-spy sees Python's frames
        for mode, connections, requests in PLAN:
            measure(system, mode, 4, 64)
            record(system, mode, connections, requests, PICTURES / f"{mode}.svg", "flamegraph")
            without_paths(PICTURES / f"{mode}.svg")
            raw = made.folder / f"{mode}.raw"
            record(system, mode, connections, requests, raw, "raw")
            result[mode] = top_ten(main_thread(raw.read_text().splitlines()))
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    performance.write()
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
