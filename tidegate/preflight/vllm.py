"""Whether a version of vLLM knows what the chart starts it with, and emits what dashboards ask for."""

import re

from tidegate.preflight.finding import Finding, failed, ok, warning
from tidegate.preflight.plan import FLAG

_SUFFIXES = ("_bucket", "_sum", "_count", "_total")


def flags(wanted: set[str], printed: str) -> Finding:
    """`printed` is what `vllm serve --help=all` of the image prints."""
    known = set(FLAG.findall(printed))
    unknown = sorted(wanted - known)
    if len(known) < len(wanted) or "--model" not in known:
        return failed("vllm-flags", "this is not the help of `vllm serve`", "give what `vllm serve --help=all` prints")
    if unknown:
        return failed(
            "vllm-flags", f"vLLM does not know {', '.join(unknown)}", "take another version, or change `args`"
        )
    return ok("vllm-flags", f"vLLM knows all {len(wanted)} options that it is started with")


def metrics(wanted: set[str], scraped: str, where: str) -> Finding:
    """`scraped` is what `/metrics` of a server of this version shows."""
    known = {line.split(" ")[2] for line in scraped.splitlines() if line.startswith("# TYPE ") and line.count(" ") >= 3}
    known |= {re.split(r"[{ ]", line, maxsplit=1)[0] for line in scraped.splitlines() if not line.startswith("#")}
    missing = sorted(name for name in wanted if name not in known and _base(name) not in known)
    if missing:
        what = f"{where} does not emit {', '.join(missing)}"
        return warning(
            "vllm-metrics", what, "some appear with the first request; else panels stay empty with this version"
        )
    return ok("vllm-metrics", f"{where} emits all {len(wanted)} metrics that dashboards ask for")


def _base(name: str) -> str:
    for suffix in _SUFFIXES:
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return name
