"""Series of the figures that the scheduler published last, made when somebody scrapes.

What is not in the figures any more has no series: nothing of an ended job or worker stays behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from dashboards.metric_table import BY_NAME, PREFIX
from jobs.records import WorkerStatus
from orchestrator.monitoring.figures import Figures, JobCounts, WorkerFigures
from orchestrator.monitoring.recorder import QueueNames, Recorder


class Monitoring:
    """What is exported: `registry` is scraped, the rest is fed by the scheduler's thread."""

    def __init__(self, count_jobs: Callable[[], JobCounts] | None = None) -> None:
        """Export into a registry of its own.

        Args:
            count_jobs: Counts all jobs, from any thread; where `None`, the figures have the counts.
        """
        self.registry = CollectorRegistry()
        self.recorder = Recorder(self.registry)
        self.figures = Figures()
        """What was published last; set as a whole."""
        self.registry.register(_Exporter(lambda: self.figures, self.recorder.queues, count_jobs))


class _Exporter(Collector):
    def __init__(
        self,
        figures: Callable[[], Figures],
        queues: QueueNames,
        count_jobs: Callable[[], JobCounts] | None,
    ) -> None:
        self._figures = figures
        self._queues = queues
        self._count_jobs = count_jobs

    def describe(self) -> Iterable[Metric]:
        """Said without looking, since a registry asks before there is anything to look at."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All families, those without a series too."""
        figures = self._figures()
        yield _gauge("build_info", [((version("loraloom"),), 1.0)])
        yield self._jobs(self._count_jobs() if self._count_jobs is not None else figures.counts or {})
        yield _gauge("jobs_pending_oldest_seconds", [((), figures.oldest_pending_seconds)])
        yield _gauge("scheduler_last_tick_timestamp_seconds", [((), figures.ticked_unix_seconds)])
        for name, field in _OF_JOBS.items():
            values = [((job.id, job.name), getattr(job, field)) for job in figures.jobs]
            yield _gauge(name, values)
        yield from _workers(figures.workers)

    def _jobs(self, counts: JobCounts) -> Metric:
        """Queues beyond the first hundred together."""
        sums: dict[tuple[str, str], float] = {}
        for (state, queue), number in sorted(counts.items(), key=lambda one: one[0][::-1]):
            key = (self._queues.bounded(queue), state.value)
            sums[key] = sums.get(key, 0.0) + number
        return _gauge("jobs", list(sums.items()))


_OF_JOBS = {
    "job_train_loss": "train_loss",
    "job_eval_loss": "eval_loss",
    "job_step": "step",
    "job_progress_ratio": "progress",
    "job_grad_norm": "grad_norm",
    "job_unsaved_steps": "unsaved_steps",
    "job_unsaved_intervals": "unsaved_intervals",
}

_COUNTERS: Mapping[str, Callable[[WorkerStatus], float]] = {
    "train_tokens_total": lambda status: status.tokens,
    "train_label_tokens_total": lambda status: status.counters.label_tokens,
    "train_padding_tokens_total": lambda status: status.counters.padding_tokens,
    "train_steps_total": lambda status: status.counters.steps,
    "worker_busy_seconds_total": lambda status: status.busy_seconds,
    "checkpoint_failures_total": lambda status: status.counters.checkpoint_failures,
}

_GAUGES: Mapping[str, Callable[[WorkerFigures], float | None]] = {
    "worker_adapters": lambda worker: worker.status.adapters if worker.status is not None else None,
    "worker_device_memory_bytes": lambda worker: worker.status.counters.memory_bytes if worker.status else None,
    "worker_device_utilization_ratio": lambda worker: (
        worker.status.counters.device_utilization if worker.status else None
    ),
    "worker_utilization_ratio": lambda worker: worker.rates.utilization,
    "worker_flops_ratio": lambda worker: worker.rates.flops,
    "pack_fill_ratio": lambda worker: worker.rates.pack_fill,
}


def _workers(workers: Sequence[WorkerFigures]) -> Iterator[Metric]:
    yield _gauge("worker_up", [((worker.id,), float(worker.is_up)) for worker in workers])
    for name, read in _GAUGES.items():
        yield _gauge(name, [((worker.id,), read(worker)) for worker in workers])
    memory = [(worker.id, worker.memory) for worker in workers if worker.memory is not None]
    yield _gauge(
        "worker_memory_bytes",
        [
            ((worker_id, kind), getattr(split, f"{kind}_bytes"))
            for worker_id, split in memory
            for kind in ("base", "adapters", "activations", "free")
        ],
    )
    known = [(worker.id, worker.status) for worker in workers if worker.status is not None]
    for name, count in _COUNTERS.items():
        metric = BY_NAME[name]
        family = CounterMetricFamily(f"{PREFIX}{name}", metric.help, labels=metric.labels)
        for worker_id, status in known:
            family.add_metric((worker_id,), count(status))
        yield family
    yield _step_durations(known)


def _step_durations(known: Sequence[tuple[str, WorkerStatus]]) -> Metric:
    metric = BY_NAME["step_duration_seconds"]
    family = HistogramMetricFamily(metric.full_name, metric.help, labels=metric.labels)
    for worker_id, status in known:
        counters, total = status.counters, 0
        buckets: list[tuple[str, float]] = []
        for bound, number in zip((*counters.pack_bounds, float("inf")), counters.pack_counts, strict=False):
            total += number
            buckets.append(("+Inf" if bound == float("inf") else str(bound), total))
        if buckets:
            family.add_metric((worker_id,), buckets, counters.pack_seconds)
    return family


def _gauge(name: str, values: Iterable[tuple[tuple[str, ...], float | None]]) -> Metric:
    metric = BY_NAME[name]
    family = GaugeMetricFamily(metric.full_name, metric.help, labels=metric.labels)
    for labels, value in values:
        if value is not None:
            family.add_metric(labels, value)
    return family
