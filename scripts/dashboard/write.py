"""Write the Grafana dashboard that the package ships: src/batching/grafana.json.

Usage: write.py [--check]: write it, or exit 1 if it is not what would be written.

panels.py says what it shows; here is what all panels have in common, in Grafana's classic
model, which versions 9 to 13 import.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from panels import SECTIONS, Panel

ROOT: Final = Path(__file__).parent.parent.parent
TARGET: Final = ROOT / "src" / "batching" / "grafana.json"
SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
SCHEMA_VERSION: Final = 38  # of Grafana 10; later ones bring it up to date themselves
COLUMNS: Final = 24
HEIGHT: Final = 8


def as_grafana(number: int, panel: Panel, x: int, y: int, width: int) -> dict[str, Any]:
    """Return a panel as Grafana has it."""
    heatmap = panel.kind == "heatmap"
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "gridPos": {"x": x, "y": y, "w": width, "h": HEIGHT},
        "targets": [
            {
                "refId": chr(ord("A") + i),
                "datasource": SOURCE,
                "expr": query.expr,
                "legendFormat": query.legend,
                "format": "heatmap" if heatmap else "time_series",
                "range": True,
            }
            for i, query in enumerate(panel.queries)
        ],
        **(heatmap_options() if heatmap else series_options(panel.unit)),
    }


def series_options(unit: str) -> dict[str, Any]:
    return {
        "fieldConfig": {
            "defaults": {"unit": unit, "min": 0, "custom": {"fillOpacity": 10}},
            "overrides": [],
        },
        "options": {
            "legend": {
                "showLegend": True,
                "displayMode": "table",
                "placement": "bottom",
                "calcs": ["lastNotNull", "max"],
            },
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    }


def heatmap_options() -> dict[str, Any]:
    return {
        "fieldConfig": {"defaults": {}, "overrides": []},
        "options": {
            "calculate": False,
            "cellGap": 1,
            "color": {
                "mode": "scheme",
                "scheme": "Oranges",
                "scale": "exponential",
                "exponent": 0.5,
                "steps": 64,
                "reverse": False,
                "fill": "dark-orange",
            },
            "exemplars": {"color": "rgba(255,0,255,0.7)"},
            "filterValues": {"le": 1e-9},
            "legend": {"show": True},
            "rowsFrame": {"layout": "le"},
            "showValue": "never",
            "tooltip": {"mode": "single", "yHistogram": False},
            "yAxis": {"axisPlacement": "left", "reverse": False, "unit": "short"},
        },
    }


def panels() -> Iterator[dict[str, Any]]:
    """Yield all panels, a section's beside each other, two in a row."""
    number = y = 0
    for title, section in SECTIONS.items():
        number += 1
        at = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
        row = {"id": number, "type": "row", "title": title, "collapsed": False}
        yield row | {"gridPos": at, "panels": []}
        y += 1
        for i, each in enumerate(section):
            number += 1
            is_alone = i == len(section) - 1 and i % 2 == 0
            width = COLUMNS if is_alone else COLUMNS // 2
            yield as_grafana(number, each, i % 2 * COLUMNS // 2, y, width)
            y += HEIGHT if i % 2 or is_alone else 0


def variable(name: str, label: str, of: str) -> dict[str, Any]:
    """Return a variable that lists the values of a label."""
    query = f"label_values(batching_send_calls_total{of}, {name})"
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": SOURCE,
        "query": query,
        "definition": query,
        "refresh": 2,  # when the time range changes
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "hide": 0,
        "options": [],
        "regex": "",
        "skipUrlSync": False,
    }


def dashboard() -> dict[str, Any]:
    """Return the whole of it."""
    datasource = {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "multi": False,
        "includeAll": False,
        "current": {"selected": True, "text": "default", "value": "default"},
        "hide": 0,
        "options": [],
        "refresh": 1,
        "regex": "",
        "skipUrlSync": False,
    }
    return {
        "title": "batching: UDP",
        "uid": "udp-batching",
        "description": "What the UDP sockets of Python's batching do: docs/metrics.md.",
        "tags": ["batching", "udp"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,  # one cross-hair in all panels
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                datasource,
                variable("instance", "Instance", ""),
                variable("local_addr", "Local address", '{instance=~"$instance"}'),
            ]
        },
        "annotations": {"list": []},
        "links": [],
        "panels": list(panels()),
    }


def main() -> int:
    """Write it, or compare."""
    text = json.dumps(dashboard(), indent=1) + "\n"
    if "--check" not in sys.argv[1:]:
        TARGET.write_text(text, encoding="utf-8")
    elif not TARGET.exists() or TARGET.read_text(encoding="utf-8") != text:
        print(f"{TARGET} is not what this writes: run {sys.argv[0]}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
