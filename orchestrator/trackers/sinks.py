"""What is said to each tracker's library. Imported in the tracker's own process alone."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

PROJECT = "loraloom"
"""Under which all runs stand, unless the tool's own environment variable says otherwise."""


class Sink(Protocol):
    """A tracker."""

    def begin(self, job_id: str, run_id: str, name: str, spec: Mapping[str, Any]) -> None:
        """A job trains; again where it goes on.

        Args:
            job_id: What `log` and `end` name it by; other services may have a job of this id too.
            run_id: No other job has it, of whatever service; the same each time.
            name: For people.
            spec: Of the job.
        """
        ...

    def log(self, job_id: str, step: int, values: Mapping[str, float]) -> None:
        """What was measured at a step."""
        ...

    def end(self, job_id: str, state: str) -> None:
        """The job has ended."""
        ...

    def close(self) -> None:
        """Nothing more comes; jobs that have not ended go on another time."""
        ...


def flat(spec: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """A spec's fields by their dotted paths."""
    for key, value in spec.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


class TensorBoard:
    """Event files, a folder a run: `tensorboard --logdir FOLDER`."""

    def __init__(self, folder: Path) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._folder = folder
        self._open = EventFileWriter
        # Generated code, of which a type checker sees nothing.
        self._event: Any = import_module("tensorboard.compat.proto.event_pb2").Event
        self._summary: Any = import_module("tensorboard.compat.proto.summary_pb2").Summary
        self._writers: dict[str, Any] = {}

    def begin(self, job_id: str, run_id: str, name: str, spec: Mapping[str, Any]) -> None:
        """Open its event file."""
        self._writers[job_id] = self._open(str(self._folder / run_id))

    def log(self, job_id: str, step: int, values: Mapping[str, float]) -> None:
        """An event with a scalar for each value."""
        scalars = [self._summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        event = self._event(wall_time=time.time(), step=step, summary=self._summary(value=scalars))
        self._writers[job_id].add_event(event)

    def end(self, job_id: str, state: str) -> None:
        """Close the file."""
        self._writers.pop(job_id).close()

    def close(self) -> None:
        """Close all files."""
        for writer in self._writers.values():
            writer.close()


class Wandb:
    """Weights & Biases, offline unless WANDB_MODE says otherwise: `wandb sync FOLDER/wandb/offline-run-*`."""

    def __init__(self, folder: Path) -> None:
        os.environ.setdefault("WANDB_MODE", "offline")
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb  # pyright: ignore[reportMissingImports]

        self._wandb = wandb
        self._folder = folder
        self._runs: dict[str, Any] = {}

    def begin(self, job_id: str, run_id: str, name: str, spec: Mapping[str, Any]) -> None:
        """A run of its own, though others of this process go on."""
        self._runs[job_id] = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run_id,
            name=name,
            config=dict(spec),
            dir=str(self._folder),
            resume="allow",
            reinit="create_new",
            settings=self._wandb.Settings(console="off", x_disable_stats=True),
        )

    def log(self, job_id: str, step: int, values: Mapping[str, float]) -> None:
        """A step that lies behind the last one is dropped by the tool."""
        self._runs[job_id].log(dict(values), step=step)

    def end(self, job_id: str, state: str) -> None:
        """Finish the run."""
        self._runs.pop(job_id).finish(exit_code=0 if state == "SUCCEEDED" else 1)

    def close(self) -> None:
        """Finish all runs; they can be resumed."""
        for run in self._runs.values():
            run.finish()


class MLflow:
    """MLflow, into a database in its folder unless MLFLOW_TRACKING_URI says otherwise."""

    def __init__(self, folder: Path) -> None:
        from mlflow.entities import Metric, Param  # pyright: ignore[reportMissingImports]
        from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingImports]

        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder / 'mlflow.db'}"
        self._metric, self._param = Metric, Param
        self._client = MlflowClient(tracking_uri=uri)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(name)
        self._experiment = (
            found.experiment_id
            if found is not None
            else self._client.create_experiment(name, artifact_location=(folder / "artifacts").as_uri())
        )
        self._runs: dict[str, str] = {}

    def begin(self, job_id: str, run_id: str, name: str, spec: Mapping[str, Any]) -> None:
        """The run that has the id as a tag, or a new one."""
        tag = "loraloom.run_id"
        found = self._client.search_runs([self._experiment], filter_string=f"tags.`{tag}` = '{run_id}'")
        if found:
            self._runs[job_id] = found[0].info.run_id
            self._client.update_run(self._runs[job_id], status="RUNNING")
            return
        run = self._client.create_run(self._experiment, run_name=name, tags={tag: run_id, "loraloom.job_id": job_id})
        self._runs[job_id] = run.info.run_id
        # The store's limits: a hundred at a time, and values of some hundred characters.
        parameters = [self._param(key, str(value)[:500]) for key, value in flat(spec)]
        for start in range(0, len(parameters), 100):
            self._client.log_batch(run.info.run_id, params=parameters[start : start + 100])

    def log(self, job_id: str, step: int, values: Mapping[str, float]) -> None:
        """All values of a step in one call."""
        now = int(time.time() * 1000)
        metrics = [self._metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._runs[job_id], metrics=metrics)

    def end(self, job_id: str, state: str) -> None:
        """Set the run's status."""
        status = {"SUCCEEDED": "FINISHED", "CANCELLED": "KILLED"}.get(state, "FAILED")
        self._client.set_terminated(self._runs.pop(job_id), status=status)

    def close(self) -> None:
        """Nothing is open."""


class Trackio:
    """trackio, into a database in its folder unless TRACKIO_DIR says otherwise: `trackio show`."""

    def __init__(self, folder: Path) -> None:
        os.environ.setdefault("TRACKIO_DIR", str(folder))
        import trackio  # pyright: ignore[reportMissingImports]

        self._trackio = trackio
        self._runs: dict[str, Any] = {}

    def begin(self, job_id: str, run_id: str, name: str, spec: Mapping[str, Any]) -> None:
        """A run of that name, which is its identity here."""
        self._runs[job_id] = self._trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", PROJECT),
            name=run_id,
            config=dict(flat(spec)),
            resume="allow",
            embed=False,
        )

    def log(self, job_id: str, step: int, values: Mapping[str, float]) -> None:
        """The run sends it by itself."""
        self._runs[job_id].log(dict(values), step=step)

    def end(self, job_id: str, state: str) -> None:
        """Finish the run."""
        self._runs.pop(job_id).finish()

    def close(self) -> None:
        """Finish all runs; they can be resumed."""
        for run in self._runs.values():
            run.finish()


SINKS: Mapping[str, Callable[[Path], Sink]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "mlflow": MLflow,
    "trackio": Trackio,
}
"""By the names of `report_to`."""
