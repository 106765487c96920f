"""Every metric of Prometheus that Loraloom exports, once: the exporter, the Grafana dashboards and the docs follow it.

Names are without their prefix. Labels are bounded: workers are those that live, or were lost a short while ago; queues
are the first `MOST_QUEUES`, all others together are `other`; jobs are those that a worker has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PREFIX = "loraloom_"
MOST_QUEUES = 100

Type = Literal["gauge", "counter", "histogram"]
Unit = Literal["short", "s", "bytes", "percentunit", "dateTimeFromNow", "none"]

_SHORT_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_LONG_SECONDS = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 24 * 3600.0, 7 * 24 * 3600.0)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A row of the table."""

    name: str
    """Without prefix; a counter's ends in `_total`."""
    type: Type
    help: str
    labels: tuple[str, ...] = ()
    unit: Unit = "short"
    """For dashboards, as Grafana calls it."""
    buckets: tuple[float, ...] = ()
    """Of a histogram: upper bounds, without the infinite one."""
    needs: str = ""
    """What must be there for it to have a value, where that is not always."""

    @property
    def full_name(self) -> str:
        """As Prometheus has it."""
        return PREFIX + self.name

    @property
    def series(self) -> tuple[str, ...]:
        """Names of its time series."""
        if self.type != "histogram":
            return (self.full_name,)
        return tuple(f"{self.full_name}_{part}" for part in ("bucket", "sum", "count"))


TABLE: tuple[Metric, ...] = (
    Metric(name="jobs", type="gauge", labels=("queue", "state"), help="Jobs that the service knows"),
    Metric(name="jobs_submitted_total", type="counter", labels=("queue",), help="Jobs taken in"),
    Metric(
        name="jobs_finished_total",
        type="counter",
        labels=("queue", "state", "reason"),
        help="Jobs that have ended, by how and why",
    ),
    Metric(
        name="job_wait_seconds",
        type="histogram",
        labels=("queue",),
        unit="s",
        buckets=_LONG_SECONDS,
        help="What jobs had waited in all when they began to run for the first time",
    ),
    Metric(
        name="job_duration_seconds",
        type="histogram",
        labels=("queue",),
        unit="s",
        buckets=_LONG_SECONDS,
        help="From a job's first run to its end",
    ),
    Metric(
        name="job_preemptions_total",
        type="counter",
        labels=("reason",),
        help="Times that a job was called back from its worker, saved and requeued",
    ),
    Metric(
        name="job_recoveries_total",
        type="counter",
        labels=("reason",),
        help="Attempts that were lost and are made again from the last checkpoint",
    ),
    Metric(
        name="job_nonfinite_steps_total",
        type="counter",
        labels=("reason",),
        help="Steps that were skipped because the loss or the gradient was not finite",
    ),
    Metric(
        name="job_train_loss",
        type="gauge",
        labels=("job_id", "job_name"),
        help="Loss of the last logged step of a job that a worker has",
    ),
    Metric(
        name="job_eval_loss",
        type="gauge",
        labels=("job_id", "job_name"),
        needs="a job with evaluation rows",
        help="Loss of the last evaluation of a job that a worker has",
    ),
    Metric(name="job_step", type="gauge", labels=("job_id", "job_name"), help="Optimizer steps done"),
    Metric(
        name="job_progress_ratio",
        type="gauge",
        labels=("job_id", "job_name"),
        unit="percentunit",
        help="Optimizer steps done, of all",
    ),
    Metric(
        name="job_grad_norm",
        type="gauge",
        labels=("job_id", "job_name"),
        help="Gradient norm of the last logged step, before clipping",
    ),
    Metric(
        name="job_unsaved_steps",
        type="gauge",
        labels=("job_id", "job_name"),
        help="Optimizer steps since the last checkpoint",
    ),
    Metric(
        name="job_unsaved_intervals",
        type="gauge",
        labels=("job_id", "job_name"),
        help="The same, in the job's own save_steps",
    ),
    Metric(
        name="jobs_pending_oldest_seconds",
        type="gauge",
        unit="s",
        help="How long the job that has waited longest for a place has waited; 0 where none waits",
    ),
    Metric(
        name="train_tokens_total",
        type="counter",
        labels=("worker",),
        help="Tokens trained on, without padding",
    ),
    Metric(
        name="train_label_tokens_total",
        type="counter",
        labels=("worker",),
        help="Tokens trained on that have a loss; the others are prompts",
    ),
    Metric(
        name="train_padding_tokens_total",
        type="counter",
        labels=("worker",),
        help="Positions computed for nothing",
    ),
    Metric(name="train_steps_total", type="counter", labels=("worker",), help="Optimizer steps of all its jobs"),
    Metric(
        name="step_duration_seconds",
        type="histogram",
        labels=("worker",),
        unit="s",
        help="Time of a pack: forward, backward and its jobs' own steps",
    ),
    Metric(
        name="worker_up", type="gauge", labels=("worker",), help="1 for a worker that lives, 0 for one that was lost"
    ),
    Metric(name="worker_adapters", type="gauge", labels=("worker",), help="Jobs whose adapters it has in memory"),
    Metric(
        name="worker_memory_bytes",
        type="gauge",
        labels=("worker", "kind"),
        unit="bytes",
        help="Memory of its device by the memory model: base, adapters, activations, free",
    ),
    Metric(
        name="worker_device_memory_bytes",
        type="gauge",
        labels=("worker",),
        unit="bytes",
        needs="a GPU",
        help="Memory of the GPU that the worker holds, measured",
    ),
    Metric(
        name="worker_device_utilization_ratio",
        type="gauge",
        labels=("worker",),
        unit="percentunit",
        needs="a GPU and nvidia-ml-py",
        help="Share of time in which a kernel ran on the GPU, by its driver",
    ),
    Metric(
        name="worker_utilization_ratio",
        type="gauge",
        labels=("worker",),
        unit="percentunit",
        help="Busy share of wall time over the last half minute",
    ),
    Metric(
        name="worker_flops_ratio",
        type="gauge",
        labels=("worker",),
        unit="percentunit",
        help="Useful operations a second of wall time over the last half minute, of the device's measured matrix rate",
    ),
    Metric(
        name="pack_fill_ratio",
        type="gauge",
        labels=("worker",),
        unit="percentunit",
        help="Tokens in shared packs over the last half minute, of what they could have held",
    ),
    Metric(
        name="worker_busy_seconds_total",
        type="counter",
        labels=("worker",),
        unit="s",
        help="Time that the worker was busy since its base was loaded",
    ),
    Metric(
        name="checkpoint_save_seconds",
        type="histogram",
        unit="s",
        buckets=_SHORT_SECONDS,
        help="From a snapshot to its durable checkpoint, beside the training",
    ),
    Metric(name="checkpoint_bytes_total", type="counter", unit="bytes", help="Bytes of checkpoints written"),
    Metric(
        name="checkpoint_failures_total",
        type="counter",
        labels=("worker",),
        help="Checkpoints that could not be written",
    ),
    Metric(
        name="checkpoint_last_success_timestamp_seconds",
        type="gauge",
        unit="dateTimeFromNow",
        help="When the last checkpoint of any job became durable, in seconds since the epoch",
    ),
    Metric(
        name="scheduler_tick_seconds",
        type="histogram",
        unit="s",
        buckets=_SHORT_SECONDS,
        help="Time of a turn of the scheduler, waiting for workers left out",
    ),
    Metric(
        name="scheduler_last_tick_timestamp_seconds",
        type="gauge",
        unit="dateTimeFromNow",
        help="When the scheduler last finished a turn, in seconds since the epoch",
    ),
    Metric(
        name="journal_commit_seconds",
        type="histogram",
        unit="s",
        buckets=_SHORT_SECONDS,
        help="Time of a transaction of the journal until it was durable",
    ),
    Metric(
        name="http_request_duration_seconds",
        type="histogram",
        labels=("method", "route", "status"),
        unit="s",
        buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 2.5, 5, 10),
        needs="`loraloom serve`",
        help="Time from a request to the beginning of its answer",
    ),
    Metric(name="build_info", type="gauge", labels=("version",), unit="none", help="1, with the version"),
)
"""All of them, in the order of the docs."""

BY_NAME = {metric.name: metric for metric in TABLE}


def markdown() -> str:
    """The table for people."""
    lines = ["| metric | type | labels | tells |", "|---|---|---|---|"]
    for metric in TABLE:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        needs = f" (needs {metric.needs})" if metric.needs else ""
        lines.append(f"| `{metric.full_name}` | {metric.type} | {labels} | {metric.help}{needs} |")
    return "\n".join(lines) + "\n"
