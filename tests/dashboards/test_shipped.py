"""What ships for Prometheus and Grafana follows from the metric table, and names nothing else."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import yaml

from dashboards import generate
from dashboards.metric_table import BY_NAME, TABLE
from dashboards.panels import panels
from tests.machine import program
from tests.prometheus import MEND

FOLDER = Path(generate.__file__).parent / "prometheus"
KNOWN = {series for metric in TABLE for series in metric.series}


def names(expr: str) -> set[str]:
    return set(re.findall(r"\bloraloom_\w+", expr))


def test_the_committed_files_are_those_that_the_table_gives() -> None:
    assert generate.main(["--check"]) == 0, "run `python -m dashboards.generate`"


def test_generate_says_what_is_stale_and_writes_it(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(generate, "ROOT", tmp_path / "dashboards")
    assert generate.main(["--check"]) == 1
    assert not (tmp_path / "dashboards").exists()
    assert generate.main([]) == 0
    assert "METRICS.md" in capsys.readouterr().out
    assert generate.main(["--check"]) == 0


def test_panels_show_every_metric_and_none_that_does_not_exist() -> None:
    named = {name for panel in panels() for query in panel.queries for name in names(query.expr)}
    assert named <= KNOWN
    assert [metric.name for metric in TABLE if not named & set(metric.series)] == []


def test_alerts_name_only_metrics_that_exist_and_each_has_a_test_that_sees_it_fire() -> None:
    rules = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"][0]["rules"]
    assert {name for rule in rules for name in names(rule["expr"])} <= KNOWN
    tests = yaml.safe_load((FOLDER / "alerts_test.yml").read_text())["tests"]
    checks = [check for test in tests for check in test["alert_rule_test"]]
    assert {check["alertname"] for check in checks if check["exp_alerts"]} == {rule["alert"] for rule in rules}
    assert {check["alertname"] for check in checks if not check["exp_alerts"]} == {rule["alert"] for rule in rules}


def test_the_table_keeps_to_the_conventions() -> None:
    assert len(BY_NAME) == len(TABLE)
    for metric in TABLE:
        assert metric.name.endswith("_total") == (metric.type == "counter"), metric.name
        assert not {"job", "instance", "service", "le"} & set(metric.labels), metric.name


def test_promtool_takes_the_configuration_and_the_tests_of_the_alerts() -> None:
    promtool = program("promtool", mend=MEND)
    for command in (["check", "config", "prometheus.yml"], ["test", "rules", "alerts_test.yml"]):
        done = subprocess.run([promtool, *command], cwd=FOLDER, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
