"""Writes what follows from the metric table: Grafana's dashboards and the table of the docs.

`python -m dashboards.generate` writes them; `--check` says what is not up to date, and ends with 1.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from dashboards.metric_table import markdown
from dashboards.panels import DASHBOARDS, Dashboard, Panel

ROOT = Path(__file__).parent
_WIDTH, _HEIGHT = 8, 8
"""Of a panel, in Grafana's units: a page is 24 wide."""
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def grafana(dashboard: Dashboard) -> dict[str, Any]:
    """A dashboard as Grafana reads it."""
    found: list[dict[str, Any]] = []
    y = 0
    for row in dashboard.rows:
        place = {"h": 1, "w": 24, "x": 0, "y": y}
        found.append({"id": len(found) + 1, "type": "row", "title": row.title, "gridPos": place, "panels": []})
        y += 1
        for index, one in enumerate(row.panels):
            x, below = index % 3 * _WIDTH, index // 3 * _HEIGHT
            place = {"h": _HEIGHT, "w": _WIDTH, "x": x, "y": y + below}
            found.append({"id": len(found) + 1, "gridPos": place, **_panel(one)})
        y += (len(row.panels) + 2) // 3 * _HEIGHT
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "tags": ["loraloom"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
                {
                    "name": "service",
                    "label": "Service",
                    "type": "query",
                    "datasource": _SOURCE,
                    "query": "label_values(loraloom_build_info, service)",
                    "refresh": 2,
                    "includeAll": True,
                    "multi": True,
                    "allValue": ".*",
                    "current": {"text": "All", "value": "$__all"},
                },
            ]
        },
        "panels": found,
    }


def _panel(panel: Panel) -> dict[str, Any]:
    needs = f" Shows nothing without {panel.needs}." if panel.needs else ""
    stacking = "normal" if panel.stacked else "none"
    is_ratio = panel.unit == "percentunit"
    return {
        "type": "timeseries",
        "title": panel.title,
        "description": f"{panel.about}.{needs}",
        "datasource": _SOURCE,
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                **({"max": 1} if is_ratio else {}),
                "custom": {"fillOpacity": 20 if panel.stacked else 0, "stacking": {"mode": stacking}},
            },
            "overrides": [],
        },
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": _SOURCE, "expr": query.expr, "legendFormat": query.legend}
            for index, query in enumerate(panel.queries)
        ],
    }


def generated() -> dict[Path, str]:
    """Every file that follows from the table, by its path."""
    files = {
        ROOT / "grafana" / "dashboards" / f"{one.uid}.json": json.dumps(grafana(one), indent=2) + "\n"
        for one in DASHBOARDS
    }
    files[ROOT / "prometheus" / "METRICS.md"] = f"# Metrics\n\n{markdown()}"
    return files


def main(arguments: list[str]) -> int:
    """Write, or only look."""
    files = generated()
    stale = [path for path, text in files.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        print(path.relative_to(ROOT.parent))
        if "--check" not in arguments:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(files[path], encoding="utf-8")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
