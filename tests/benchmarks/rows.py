"""The jobs of a setting, their real rows, and which rows every job takes in its next step."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from jobs.spec import JobSpec
from tests.benchmarks.setting import (
    ALPHA,
    LEARNING_RATE,
    MAX_GRAD_NORM,
    MAX_LENGTH,
    RANK,
    TORCH_DTYPES,
    Inputs,
    Setting,
)
from tests.real_inputs import data_file, require, smollm2_dir
from workers.base_model import read_blueprint
from workers.cursor import Cursor
from workers.dataset import Counts, JobData, Row, TokenisedRows
from workers.worker import load_tokenised

TASKS = ("trec-coarse", "sms-spam", "sarcasm", "quartz", "trec-fine")


def real_inputs() -> Inputs:
    """SmolLM2-135M and the five tasks.

    Raises:
        RealInputsError: They are not in the cache.
    """
    require()
    return Inputs(model=smollm2_dir(), tasks=tuple(data_file(f"{task}.train.jsonl") for task in TASKS))


def job_specs(setting: Setting) -> list[JobSpec]:
    """One spec a job, all with the same adapter, each on the task whose turn it is."""
    tasks = setting.inputs.tasks
    return [_spec(name, setting, tasks[number % len(tasks)]) for number, name in enumerate(setting.job_names)]


def job_data(setting: Setting) -> dict[str, JobData]:
    """Tokenised rows by job. Every file is tokenised once, however many jobs train on it."""
    tasks = [_task_rows(task, setting.inputs.model) for task in setting.inputs.tasks]
    if not setting.pinned:
        rows = {name: tasks[number % len(tasks)] for number, name in enumerate(setting.job_names)}
    else:
        total = setting.num_jobs * setting.batch_size
        chosen = [tasks[number % len(tasks)][number // len(tasks)] for number in range(total)]
        rows = {name: _tokenised(chosen[number :: setting.num_jobs]) for number, name in enumerate(setting.job_names)}
    return {name: JobData(train=train, evaluation=None, notes=()) for name, train in rows.items()}


class Feed:
    """The rows that the jobs' own cursors choose, step after step: what the worker will run, for all contenders."""

    def __init__(self, setting: Setting) -> None:
        data = job_data(setting)
        self._jobs = [
            (data[spec.name].train, Cursor(num_rows=len(data[spec.name].train), training=spec.training))
            for spec in job_specs(setting)
        ]

    def next(self) -> list[list[Row]]:
        """One micro-batch of every job, in the order of the jobs."""
        return [
            [rows[position] for positions in cursor.next_batch() for position in positions]
            for rows, cursor in self._jobs
        ]


def num_tokens(rows_by_job: Sequence[Sequence[Row]]) -> int:
    """Tokens of a step, without padding."""
    return sum(len(row.ids) for rows in rows_by_job for row in rows)


def _spec(name: str, setting: Setting, task: Path) -> JobSpec:
    return JobSpec.model_validate(
        {
            "name": name,
            "model": {"model_name_or_path": str(setting.inputs.model), "dtype": TORCH_DTYPES[setting.dtype]},
            "lora": {"r": RANK, "lora_alpha": ALPHA},
            "datasets": [{"path": str(task)}],
            "training": {
                # More than any benchmark takes: no job may end while others are measured.
                "max_steps": 1_000_000,
                "max_length": MAX_LENGTH,
                "per_device_train_batch_size": setting.batch_size,
                "learning_rate": LEARNING_RATE,
                "max_grad_norm": MAX_GRAD_NORM,
                "assistant_only_loss": _is_chat(task),
                "seed": int(name.rpartition("-")[2]),
            },
        }
    )


def _is_chat(task: Path) -> bool:
    with task.open(encoding="utf-8") as lines:
        return "messages" in json.loads(next(lines))


@cache
def _task_rows(task: Path, model: Path) -> TokenisedRows:
    spec = _spec(
        "task-0", Setting(inputs=Inputs(model=model, tasks=(task,)), num_jobs=1, batch_size=1, dtype="fp32"), task
    )
    return load_tokenised(spec, read_blueprint(spec.model).key).train


def _tokenised(rows: Sequence[Row]) -> TokenisedRows:
    return TokenisedRows(
        np.concatenate([row.ids for row in rows]).astype(np.int32),
        np.concatenate([row.labelled for row in rows]),
        np.cumsum([len(row.ids) for row in rows], dtype=np.int64),
        np.asarray([row.index for row in rows], dtype=np.int64),
        Counts(rows=len(rows), truncated=0, dropped=0),
    )
