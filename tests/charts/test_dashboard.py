"""The dashboard asks only for metrics that Prometheus would scrape from gateways, workers and the operator."""

import json
import re
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from roost_gateway.telemetry import StepFigures
from roost_gateway.telemetry import Telemetry as GatewayTelemetry
from roost_operator.kubernetes.metrics import Metrics
from roost_worker.engine.messages import EngineStats
from roost_worker.server.residency import SessionResidency
from roost_worker.server.telemetry import WorkerTelemetry

ROOT = Path(__file__).parents[2]
PANELS = json.loads((ROOT / "charts/roost/files/dashboard.json").read_text())["panels"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
METRIC = re.compile(r"\b(?:roost|gen_ai)_[a-z_]+")
GAUGE = re.compile(r'gauge\(\s*"(roost\.[a-z.]+)"')
LABELS = re.compile(r"by \(([a-z_, ]+)\)|\{([a-z_]+)=")


def samples(text: str) -> dict[str, set[str]]:
    """Name of each sample of an exposition, with its labels."""
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    return labels


def exposed(registry: CollectorRegistry) -> dict[str, set[str]]:
    return samples(generate_latest(registry).decode())


def of_a_gateway() -> dict[str, set[str]]:
    """After a step and a failover; its gauges are those that core/life.py names."""
    telemetry = GatewayTelemetry()
    for name in GAUGE.findall((ROOT / "gateway/roost_gateway/core/life.py").read_text()):
        telemetry.gauge(name, "as in life.py", lambda: [(1.0, {})])
    with telemetry.call("Step", ()):
        telemetry.failover("w")
        telemetry.committed(StepFigures("m", 3, 2, 1, 0.1, 0.2, 0.3, 0))
    metrics = exposed(telemetry.registry)
    telemetry.close()
    return metrics


def of_a_worker() -> dict[str, set[str]]:
    """From the endpoint that Prometheus scrapes."""
    engine = SimpleNamespace(info=SimpleNamespace(bytes_per_block=1))
    shell: Any = SimpleNamespace(stats=EngineStats(), residency=SessionResidency(), attempts={}, engine=engine)
    telemetry = WorkerTelemetry("w")
    telemetry.observe(shell)
    try:
        port = telemetry.serve("127.0.0.1", 0)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as reply:
            return samples(reply.read().decode())
    finally:
        telemetry.close()


@pytest.fixture(scope="module")
def known() -> dict[str, set[str]]:
    return {**of_a_gateway(), **of_a_worker(), **exposed(Metrics().registry)}


@pytest.mark.parametrize("query", QUERIES)
def test_metrics_and_labels_of_a_query_exist(known: dict[str, set[str]], query: str) -> None:
    metrics = set(METRIC.findall(query))
    assert metrics
    assert metrics - set(known) == set()
    labels = {name for pair in LABELS.findall(query) for part in pair for name in part.split(", ") if name}
    assert labels - set.union(*(known[metric] for metric in metrics)) == set()


def test_the_dashboard_shows_gateways_workers_and_the_operator() -> None:
    text = " ".join(QUERIES)
    assert all(prefix in text for prefix in ("roost_steps_", "roost_worker_", "roost_operator_"))


def test_panels_do_not_overlap() -> None:
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in PANELS]
    assert len(set(places)) == len(places)
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
