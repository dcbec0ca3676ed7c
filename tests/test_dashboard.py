"""The Grafana dashboard that the package ships: whole, current, and of metrics that there are."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from batching import open_conn
from batching.metrics import counter, prometheus_collector
from loopback import ANY_PORT

pytest.importorskip("prometheus_client", reason='needs "udp-batching[metrics]"')

ROOT = Path(__file__).parent.parent
WRITER = ROOT / "scripts" / "dashboard" / "write.py"
DASHBOARD: dict[str, Any] = json.loads((files("batching") / "grafana.json").read_text("utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
OF_PROMETHEUS = {"instance", "job"}  # labels that a scrape adds
VARIABLES = {
    "$__rate_interval": "1m",
    "$instance": ".*",
    "$local_addr": ".*",
}


def expressions() -> Iterator[str]:
    """Yield every query, with what Grafana puts in the variables' places."""
    for panel in PANELS:
        for target in panel["targets"]:
            expr: str = target["expr"]
            for variable, value in VARIABLES.items():
                expr = expr.replace(variable, value)
            yield expr


ALERTS = re.findall(r"^ *expr: (.*)$", (ROOT / "docs/metrics.md").read_text("utf-8"), re.MULTILINE)
EXPRESSIONS = sorted({*expressions(), *ALERTS})


@pytest.fixture(scope="module")
def metrics() -> dict[str, set[str]]:
    """Give the labels of every metric that a scrape gives."""
    counter("test-dashboard")
    with open_conn(ANY_PORT):
        samples = [each for family in prometheus_collector().collect() for each in family.samples]
    return {sample.name: set(sample.labels) for sample in samples}


def test_the_dashboard_is_what_its_script_writes() -> None:
    command = [sys.executable, str(WRITER), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_every_variable_is_one_of_the_dashboards_or_of_grafanas() -> None:
    named = {each["name"] for each in DASHBOARD["templating"]["list"]}
    text = json.dumps(DASHBOARD)
    used = set(re.findall(r"\$\{?(\w+)", text)) - {"__all", "__rate_interval"}
    assert used == named


def test_every_panel_says_what_it_shows() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in PANELS:
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert all(target["legendFormat"] for target in panel["targets"])
        assert panel["datasource"]["uid"] == "${datasource}"


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert at["x"] + at["w"] <= 24
        assert not taken & cells
        taken |= cells


def test_legends_name_labels_that_their_queries_keep() -> None:
    for panel in PANELS:
        for target in panel["targets"]:
            kept = re.findall(r"by \(([\w, ]+)\)", target["expr"])
            assert kept
            named = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            assert all(named <= set(each.split(", ")) for each in kept), panel["title"]


@pytest.mark.parametrize("expr", EXPRESSIONS)
def test_every_query_is_promql_of_metrics_and_labels_that_there_are(
    expr: str, metrics: dict[str, set[str]]
) -> None:
    promql = pytest.importorskip("promql_parser", reason="needs promql-parser: make setup")
    tree = promql.parse(expr)
    selectors: list[Any] = []
    labels: set[str] = set()

    def visit(node: Any) -> bool:
        if isinstance(node, promql.VectorSelector):
            selectors.append(node)
        if isinstance(node, promql.AggregateExpr):
            labels.update(node.modifier.labels)
        return True

    promql.walk(tree, visit)
    assert selectors
    known = set().union(*(metrics[selector.name] for selector in selectors)) | OF_PROMETHEUS
    matched = {each.name for selector in selectors for each in selector.matchers.matchers}
    assert labels | matched <= known


def test_every_kind_of_metric_is_shown(metrics: dict[str, set[str]]) -> None:
    shown = set(re.findall(r"batching_\w+", json.dumps(PANELS)))
    by_others = {"batching_recv_messages_total", "batching_send_messages_total"}  # histograms have
    by_others |= {"batching_recv_trains_total", "batching_send_trains_total"}  # all of these
    assert set(metrics) - by_others - shown == set()
