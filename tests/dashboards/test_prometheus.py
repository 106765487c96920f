"""A real Prometheus scrapes a real service that trains; every query of every panel and alert is put to it."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from dashboards import generate
from dashboards.metric_table import TABLE
from dashboards.panels import Panel, panels
from jobs.records import JobState
from orchestrator.client import Client
from tests.machine import free_port, program
from tests.nursery import Nursery
from tests.orchestrator.conftest import rows, specs_in
from tests.orchestrator.served import Served, states, submit
from tests.prometheus import MEND, Prometheus
from tests.tiny_base import write_rows, write_tiny_base

__all__ = ["rows"]

SHIPPED = Path(generate.__file__).parent / "prometheus"
LONG = {"max_steps": 1_000_000, "save_steps": 20, "logging_steps": 5, "eval_strategy": "steps", "eval_steps": 50}


def configuration(folder: Path, targets: Path) -> Path:
    """The shipped one, scraping every second, with its files where the test has them."""
    content = yaml.safe_load((SHIPPED / "prometheus.yml").read_text())
    content["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    content["rule_files"] = [str(SHIPPED / "alerts.yml")]
    [ours] = [one for one in content["scrape_configs"] if one["job_name"] == "loraloom"]
    ours["file_sd_configs"] = [{"files": [str(targets / "*.json")], "refresh_interval": "1s"}]
    content["scrape_configs"] = [ours]
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def service(tmp_path: Path, nursery: Nursery) -> Iterator[Served]:
    program("prometheus", mend=MEND)
    targets = str(tmp_path / "targets")
    served = Served(tmp_path / "data", "--in-process", "--prometheus-dir", targets, nursery=nursery)
    yield served
    served.close()


def expected(panel: Panel) -> bool:
    """Whether it has data after what this test lets happen; a GPU is not among it."""
    return "GPU" not in panel.needs


def instant(expr: str) -> str:
    """A panel's query with its variables filled in, as Grafana would."""
    return expr.replace("$service", ".*").replace("$__rate_interval", "1m")


def test_every_panel_and_alert_of_what_ships_has_data_of_a_real_run(
    service: Served, tmp_path: Path, rows: Path
) -> None:
    # On this base, rows with a certain character have no finite loss: one job fails by construction.
    base = write_tiny_base(tmp_path / "base", poisoned=True)
    write_specs = specs_in(tmp_path, base, rows)
    poisoned = str(write_rows(tmp_path / "poisoned.jsonl", poisoned=range(24)))
    client = service.start()
    submit(client, write_specs({"training": LONG}))
    prometheus = Prometheus(configuration(tmp_path, tmp_path / "targets"), tmp_path, free_port())
    try:
        prometheus.until(lambda: prometheus.query("loraloom_build_info"), "the service is found and scraped")
        service.until(lambda: client.checkpoints("job-0").checkpoints, "job-0 is saved")
        # Killed and started again, at another port, it is found again, and tells what that has cost.
        service.end(signal.SIGKILL)
        client = service.start()
        submit(
            client,
            write_specs(
                {"name": "paused", "training": LONG},
                {"name": "diverges", "datasets": [{"path": poisoned}], "training": {"max_nonfinite_steps": 2}},
                {"name": "short", "training": {"max_steps": 5, "logging_steps": 1}},
            ),
        )
        observe(service, client, prometheus)
    finally:
        prometheus.close()


def observe(service: Served, client: Client, prometheus: Prometheus) -> None:
    service.until(lambda: client.job("paused").progress.step > 20, "a job trains")
    client.pause("paused")
    for job, end in (("paused", JobState.PAUSED), ("short", JobState.SUCCEEDED), ("diverges", JobState.FAILED)):
        service.until(lambda job=job, end=end: states(client)[job] is end, f"{job} is {end}")
    service.until(lambda: client.job("job-0").state is JobState.RUNNING, "job-0 goes on")
    for panel in panels():
        for query in panel.queries if expected(panel) else ():
            expr = instant(query.expr)
            prometheus.until(lambda expr=expr: prometheus.query(expr), f"{panel.title}: {expr}")
    for panel in panels():
        if not expected(panel):
            assert all(prometheus.query(instant(query.expr)) == [] for query in panel.queries), panel.title
    for metric in TABLE:
        if "GPU" not in metric.needs:
            name = metric.series[0]
            assert prometheus.query(name), name
    check_values(client, prometheus)
    check_alerts(prometheus)


def check_values(client: Client, prometheus: Prometheus) -> None:
    """What is told is what is so."""
    live = {labels["job_id"] for labels, _ in prometheus.query("loraloom_job_step")}
    prometheus.until(
        lambda: {labels["job_id"] for labels, _ in prometheus.query("loraloom_job_step")} == {"job-0"},
        f"only the job that trains has series, not {live}",
    )
    counts = {labels["state"]: value for labels, value in prometheus.query("loraloom_jobs")}
    assert counts == {"RUNNING": 1.0, "PAUSED": 1.0, "FAILED": 1.0, "SUCCEEDED": 1.0}
    [(_, submitted)] = prometheus.query("sum(loraloom_jobs_submitted_total)")
    assert submitted == 3.0
    [(labels, lost)] = prometheus.query("loraloom_job_recoveries_total")
    assert (labels["reason"], lost) == ("worker_lost", 1.0)
    assert client.job("job-0").ledger.recoveries == 1
    finished = prometheus.query("loraloom_jobs_finished_total")
    assert {(labels["state"], labels["reason"]) for labels, _ in finished} == {
        ("SUCCEEDED", "finished"),
        ("FAILED", "nonfinite"),
    }
    for name in ("worker_utilization_ratio", "pack_fill_ratio"):
        [(_, value)] = prometheus.query(f"loraloom_{name}")
        assert 0 < value <= 1, name
    [(_, flops)] = prometheus.query("loraloom_worker_flops_ratio")
    assert 0 < flops < 2
    for labels, value in prometheus.query("loraloom_job_train_loss"):
        assert math.isfinite(value)
        assert labels["job_name"] == "job-0"
    # The old port's series has gone with its place in the target file.
    prometheus.until(lambda: len(prometheus.query("up")) == 1, "one service is scraped")
    [(labels, value)] = prometheus.query("up")
    assert (labels["job"], value) == ("loraloom", 1.0)
    assert labels["service"]
    assert client.job("job-0").ledger.device_seconds > 0


def check_alerts(prometheus: Prometheus) -> None:
    """All were evaluated without an error, and the one that this run has earned is there."""
    [group] = prometheus.get("rules", type="alert")["groups"]
    assert {rule["health"] for rule in group["rules"]} <= {"ok"}
    assert len(group["rules"]) == len(yaml.safe_load((SHIPPED / "alerts.yml").read_text())["groups"][0]["rules"])
    # Of what counts the change of a counter, the left side says something once the counter is there.
    for rule in group["rules"]:
        names = [name for metric in TABLE for name in metric.series if name in rule["query"]]
        assert rule["name"] == "LoraloomServiceDown" or any(prometheus.query(name) for name in names), rule["name"]
