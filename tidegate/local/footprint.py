"""What a process and everything below it takes of memory."""

from collections import defaultdict
from pathlib import Path

_PROC = Path("/proc")
_MB = 1_000_000


def memory_mb(pid: int) -> float:
    """Proportional set size, MB, of `pid` and its descendants: pages that several processes share are counted once in all."""
    return sum(_pss_bytes(process) for process in (pid, *_descendants(pid))) / _MB


def _descendants(pid: int) -> list[int]:
    children = defaultdict(list)
    for path in _PROC.glob("[0-9]*/stat"):
        try:
            after_name = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended meanwhile
        children[int(after_name[1])].append(int(path.parent.name))
    found = [pid]
    for process in found:
        found += children[process]
    return found[1:]


def _pss_bytes(pid: int) -> int:
    try:
        lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)
