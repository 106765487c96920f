"""What the Grafana dashboards show: panels over the metric table, with the queries behind them."""

from __future__ import annotations

from dataclasses import dataclass

from dashboards.metric_table import BY_NAME, Metric, Unit

SERVICE = 'service=~"$service"'
"""Narrows every query to the services that were chosen."""
RANGE = "$__rate_interval"


@dataclass(frozen=True, kw_only=True)
class Query:
    """One line, or some, of a panel."""

    expr: str
    legend: str


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A graph."""

    title: str
    about: str
    unit: Unit
    queries: tuple[Query, ...]
    needs: str = ""
    """What must be there or have happened for it to show anything."""
    stacked: bool = False


@dataclass(frozen=True, kw_only=True)
class Row:
    """Panels under one heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, kw_only=True)
class Dashboard:
    """A page of Grafana."""

    uid: str
    title: str
    rows: tuple[Row, ...]


def panel(name: str, title: str, *, needs: str = "", stacked: bool = False) -> Panel:
    """The usual one: a gauge as it is, a counter by the second, of a histogram the median and the 95th percentile."""
    metric = BY_NAME[name]
    return Panel(
        title=title,
        about=metric.help,
        unit=_unit(metric),
        queries=_queries(metric),
        needs=needs or metric.needs,
        stacked=stacked,
    )


def rate(name: str) -> str:
    """A counter by the second, each label apart."""
    metric = BY_NAME[name]
    by = ", ".join(("service", *metric.labels))
    return f"sum by ({by}) (rate({metric.full_name}{{{SERVICE}}}[{RANGE}]))"


def _unit(metric: Metric) -> Unit:
    # Seconds by the second are a share.
    return "percentunit" if (metric.type, metric.unit) == ("counter", "s") else metric.unit


def _legend(metric: Metric) -> str:
    labels = metric.labels or ("service",)
    # A job's id says all that its name does.
    return " ".join(f"{{{{{label}}}}}" for label in labels if label != "job_id")


def _queries(metric: Metric) -> tuple[Query, ...]:
    legend = _legend(metric)
    match metric.type:
        case "counter":
            return (Query(expr=rate(metric.name), legend=legend),)
        case "gauge":
            scale = " * 1000" if metric.unit == "dateTimeFromNow" else ""
            return (Query(expr=f"{metric.full_name}{{{SERVICE}}}{scale}", legend=legend),)
        case "histogram":
            by = ", ".join(("service", *metric.labels, "le"))
            buckets = f"sum by ({by}) (rate({metric.full_name}_bucket{{{SERVICE}}}[{RANGE}]))"
            return tuple(
                Query(expr=f"histogram_quantile({share}, {buckets})", legend=f"{legend} {name}")
                for share, name in ((0.5, "median"), (0.95, "95 %"))
            )


def _tokens() -> Panel:
    """Labels, prompts and padding apart: only the first teach anything."""
    by = ("train_tokens_total", "train_label_tokens_total", "train_padding_tokens_total")
    tokens, labels, padding = (f"sum(rate({BY_NAME[name].full_name}{{{SERVICE}}}[{RANGE}]))" for name in by)
    return Panel(
        title="Tokens a second",
        about="Of labels, which have a loss; of prompts, which have none; and positions computed for nothing",
        unit="short",
        queries=(
            Query(expr=labels, legend="labels"),
            Query(expr=f"{tokens} - {labels}", legend="prompts"),
            Query(expr=padding, legend="padding"),
        ),
        stacked=True,
    )


CLUSTER = Dashboard(
    uid="loraloom-cluster",
    title="Loraloom: cluster",
    rows=(
        Row(
            title="Work",
            panels=(
                _tokens(),
                panel("jobs", "Jobs", stacked=True),
                panel("jobs_pending_oldest_seconds", "Longest wait for a place"),
                panel("jobs_submitted_total", "Jobs taken in a second"),
                panel("jobs_finished_total", "Jobs ended a second"),
                panel("job_wait_seconds", "Wait before the first run"),
                panel("job_duration_seconds", "From first run to end"),
            ),
        ),
        Row(
            title="Devices",
            panels=(
                panel("worker_utilization_ratio", "Busy share of wall time"),
                panel("worker_busy_seconds_total", "Busy share, over the interval shown"),
                panel("worker_flops_ratio", "Useful operations, of the device's matrix rate"),
                panel("pack_fill_ratio", "Pack fill"),
                panel("worker_adapters", "Adapters", stacked=True),
                panel("worker_memory_bytes", "Memory by the model", stacked=True),
                panel("worker_device_memory_bytes", "Memory held on the GPU"),
                panel("worker_device_utilization_ratio", "GPU, by its driver"),
                panel("worker_up", "Workers"),
                panel("step_duration_seconds", "Time of a pack"),
                panel("train_tokens_total", "Tokens a second, by worker"),
                panel("train_label_tokens_total", "Label tokens a second, by worker"),
                panel("train_padding_tokens_total", "Padding a second, by worker"),
                panel("train_steps_total", "Optimizer steps a second"),
            ),
        ),
        Row(
            title="What goes wrong",
            panels=(
                panel("job_recoveries_total", "Attempts lost a second", needs="a lost attempt"),
                panel("job_preemptions_total", "Jobs called back a second", needs="a job that was called back"),
                panel("job_nonfinite_steps_total", "Steps skipped a second", needs="a step that was not finite"),
                panel("checkpoint_failures_total", "Checkpoints that failed, a second"),
            ),
        ),
        Row(
            title="Service",
            panels=(
                panel("checkpoint_save_seconds", "Time of a checkpoint"),
                panel("checkpoint_bytes_total", "Checkpoints, bytes a second"),
                panel("checkpoint_last_success_timestamp_seconds", "Last checkpoint"),
                panel("scheduler_tick_seconds", "Turn of the scheduler"),
                panel("scheduler_last_tick_timestamp_seconds", "Last turn of the scheduler"),
                panel("journal_commit_seconds", "Transaction of the journal"),
                panel("http_request_duration_seconds", "HTTP requests"),
                panel("build_info", "Version"),
            ),
        ),
    ),
)

JOBS = Dashboard(
    uid="loraloom-jobs",
    title="Loraloom: jobs that train",
    rows=(
        Row(
            title="Learning",
            panels=(
                panel("job_train_loss", "Loss"),
                panel("job_eval_loss", "Held-out loss"),
                panel("job_grad_norm", "Gradient norm"),
            ),
        ),
        Row(
            title="Progress",
            panels=(
                panel("job_progress_ratio", "Progress"),
                panel("job_step", "Steps"),
                panel("job_unsaved_steps", "Steps since the last checkpoint"),
                panel("job_unsaved_intervals", "The same, in save_steps"),
            ),
        ),
    ),
)

DASHBOARDS = (CLUSTER, JOBS)


def panels() -> list[Panel]:
    """Of all dashboards."""
    return [one for dashboard in DASHBOARDS for row in dashboard.rows for one in row.panels]
