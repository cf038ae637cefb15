"""Metrics are counted in dictionaries first: what is shown must be what the library itself would show."""

import subprocess
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from tidegate.telemetry import names
from tidegate.telemetry.metrics import Metrics, SharedPlace

COUNTER = """
import sys
from pathlib import Path
from tidegate.telemetry import names
from tidegate.telemetry.metrics import Metrics, SharedPlace
metrics = Metrics(SharedPlace(Path(sys.argv[1]), sys.argv[2]))
for _ in range(int(sys.argv[3])):
    metrics.count(names.REFUSALS, "code")
    metrics.observe(names.DURATION, 0.2, "m")
metrics.watch(names.INFLIGHT, lambda: {(): 5})
metrics.fold()
"""


@given(st.lists(st.sampled_from([0.001, 0.005, 0.0050001, 0.3, 1, 299.9, 300, 301, 1e9]), min_size=1, max_size=50))
def test_a_folded_histogram_is_what_the_library_would_have_made_of_it(values: list[float]) -> None:
    registry, metrics = CollectorRegistry(), Metrics()
    metric = names.DURATION
    theirs = Histogram(metric.name, metric.help, metric.labels, buckets=metric.buckets, registry=registry).labels("m")
    for number, value in enumerate(values):
        theirs.observe(value)
        metrics.observe(metric, value, "m")
        if number == 20:
            metrics.fold()
    metrics.fold()
    shown = metrics.render().decode()
    for line in generate_latest(registry).decode().splitlines():
        assert not line.startswith(f"{metric.name}_bucket") or line in shown
        assert not line.startswith(f"{metric.name}_count") or line in shown


def test_nothing_is_shown_twice_or_lost_between_two_looks() -> None:
    metrics = Metrics()
    for _ in range(3):
        metrics.count(names.REFUSALS, "code", by=2)
        metrics.fold()
        metrics.fold()
    assert b'tidegate_refusals_total{code="code"} 6.0' in metrics.render()


def test_processes_add_up_and_a_later_one_goes_on_where_an_earlier_one_of_its_name_stopped(tmp_path: Path) -> None:
    def counted(name: str, count: int) -> None:
        subprocess.run([sys.executable, "-c", COUNTER, str(tmp_path), name, str(count)], check=True, timeout=60)

    def shown() -> bytes:
        code = (
            "import sys; from pathlib import Path; from tidegate.telemetry.metrics import Metrics, SharedPlace; "
            "sys.stdout.buffer.write(Metrics(SharedPlace(Path(sys.argv[1]), 'supervisor')).render())"
        )
        argv = [sys.executable, "-c", code, str(tmp_path)]
        return subprocess.run(argv, check=True, timeout=60, capture_output=True).stdout

    counted("0", 3)
    counted("1", 4)
    text = shown()
    assert b'tidegate_refusals_total{code="code"} 7.0' in text and b"tidegate_inflight_requests 10.0" in text
    assert b'gen_ai_server_request_duration_seconds_count{model="m"} 7.0' in text
    SharedPlace(tmp_path, "supervisor").bury("0")
    text = shown()
    assert b'tidegate_refusals_total{code="code"} 7.0' in text and b"tidegate_inflight_requests 5.0" in text
    counted("0", 1)
    text = shown()
    assert b'tidegate_refusals_total{code="code"} 8.0' in text and b"tidegate_inflight_requests 10.0" in text
