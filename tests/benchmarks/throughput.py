"""Tokens a second of packed training against PEFT job after job and against the floor, on the same rows, in turn.

- peft: `peft` + `torch.optim.AdamW`, one job after the other in one process, batches padded as a data collator does.
- packed: this project's worker.
- floor: the frozen base alone, forward and backward for the inputs, packed rows, logits at labels: no adapter at all.

Every repeat takes the next rows of every job and runs the three in rotating order; ratios are taken within a repeat and
the median is printed, so a machine whose speed drifts does not decide them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM

from jobs.records import Assignment
from jobs.spec import JobSpec
from orchestrator.clusters.host import quiet_libraries
from tests.real_inputs import data_file, require, smollm2_dir
from workers.base_model import BaseModel, read_blueprint
from workers.dataset import Row
from workers.job_run import JobRun
from workers.loss import token_losses
from workers.targets import linears
from workers.worker import Worker, WorkerSettings

RANK = 8
DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


def main() -> None:
    """Parse, measure, print a line for each row."""
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--rows", default="1x8,4x4,8x1,8x4,16x1,32x1", help="jobs x rows of a micro-batch")
    parser.add_argument("--dtype", default="fp32", help="fp32,bf16")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    require()
    quiet_libraries()
    for dtype in options.dtype.split(","):
        for row in options.rows.split(","):
            num_jobs, batch_size = map(int, row.split("x"))
            result = measure(num_jobs, batch_size, dtype, options.repeats)
            if options.json:
                print(json.dumps(result), flush=True)
            else:
                print(
                    f"{dtype} {row:>5}: packed {result['packed_tokens_per_second']:6.0f} tok/s, "
                    f"PEFT {result['peft_sequential_tokens_per_second']:6.0f}, "
                    f"floor {result['floor_tokens_per_second']:6.0f}; packed/PEFT {result['packed_over_peft']:.2f}, "
                    f"packed/floor {result['packed_over_floor']:.2f}",
                    flush=True,
                )


def measure(num_jobs: int, batch_size: int, dtype: str, repeats: int) -> dict[str, float | int | str]:
    """Medians over the repeats, after one warm-up of each contender."""
    specs = [_spec(number, batch_size, dtype) for number in range(num_jobs)]
    blueprint = read_blueprint(specs[0].model)
    with tempfile.TemporaryDirectory() as folder:
        worker = Worker("bench", blueprint.key, WorkerSettings(staging_dir=Path(folder), capacity_bytes=2**50))
        worker.load()
        worker.assign(Assignment(job_id=spec.name, spec=spec) for spec in specs)
        worker.step()
        peft = _Peft(blueprint.key.model_name_or_path, getattr(torch, DTYPES[dtype]), specs)
        seconds: dict[str, list[float]] = {"peft": [], "packed": [], "floor": []}
        tokens: list[int] = []
        for repeat in range(repeats + 1):
            batches = [_next_rows(run) for run in worker.runs().values()]
            contenders: list[tuple[str, Callable[[], float | None]]] = [
                ("packed", lambda: _packed(worker)),
                ("peft", lambda batches=batches: peft.step(batches)),
                ("floor", lambda batches=batches: _floor(worker.base, [row for rows in batches for row in rows])),
            ]
            tokens.append(sum(len(row.ids) for rows in batches for row in rows))
            for offset in range(3):
                name, contend = contenders[(repeat + offset) % 3]
                began = time.perf_counter()
                set_up_seconds = contend()
                seconds[name].append(time.perf_counter() - began - (set_up_seconds or 0.0))
    rates = {
        name: [count / taken for count, taken in zip(tokens, times, strict=True)][1:] for name, times in seconds.items()
    }

    def ratio(other: str) -> float:
        return statistics.median(ours / theirs for ours, theirs in zip(rates["packed"], rates[other], strict=True))

    return {
        "jobs": num_jobs,
        "batch_size": batch_size,
        "dtype": dtype,
        "peft_sequential_tokens_per_second": statistics.median(rates["peft"]),
        "packed_tokens_per_second": statistics.median(rates["packed"]),
        "floor_tokens_per_second": statistics.median(rates["floor"]),
        "packed_over_peft": ratio("peft"),
        "packed_over_floor": ratio("floor"),
    }


def _spec(number: int, batch_size: int, dtype: str) -> JobSpec:
    return JobSpec.model_validate(
        {
            "name": f"job-{number}",
            "model": {"model_name_or_path": str(smollm2_dir()), "dtype": DTYPES[dtype]},
            "lora": {"r": RANK, "lora_alpha": 2 * RANK},
            "datasets": [{"path": str(data_file("trec-coarse.train.jsonl")), "max_samples": 800}],
            "training": {"max_steps": 10_000, "per_device_train_batch_size": batch_size, "seed": number},
        }
    )


def _next_rows(run: JobRun) -> Sequence[Row]:
    work = run.next_work()
    assert work is not None
    return work.batch.rows


def _packed(worker: Worker) -> None:
    worker.step()


def _floor(base: BaseModel, rows: Sequence[Row]) -> None:
    """What no way of training adapters on every layer can undercut."""
    embedding = base.model.get_input_embeddings()
    handle = embedding.register_forward_hook(lambda _module, _inputs, output: output.requires_grad_())
    try:
        logits, labels, _ = base.label_logits(rows, ())
        token_losses(logits, labels).sum().backward()
    finally:
        handle.remove()


class _Peft:
    """What people use today: an adapter a job on one base, trained one job after the other."""

    def __init__(self, path: str, dtype: torch.dtype, specs: Sequence[JobSpec]) -> None:
        base = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
        targets = list(linears(base))
        self._names = [spec.name for spec in specs]
        configs = {
            name: LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=targets, task_type="CAUSAL_LM")
            for name in self._names
        }
        self._model = get_peft_model(base, configs[self._names[0]], adapter_name=self._names[0])
        for name in self._names[1:]:
            self._model.add_adapter(name, configs[name])
        self._model.train()
        self._optimizers: dict[str, torch.optim.Optimizer] = {}
        for name in self._names:
            self._model.set_adapter(name)
            trained = [parameter for parameter in self._model.parameters() if parameter.requires_grad]
            self._optimizers[name] = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0)

    def step(self, batches: Sequence[Sequence[Row]]) -> float:
        """An optimizer step of every job; returns the seconds that went into changing jobs.

        Run to their ends one after the other, jobs change rarely; only for the comparison do they take turns.
        """
        changing = 0.0
        for name, rows in zip(self._names, batches, strict=True):
            began = time.perf_counter()
            self._model.set_adapter(name)
            changing += time.perf_counter() - began
            longest = max(len(row.ids) for row in rows)
            ids = torch.zeros(len(rows), longest, dtype=torch.long)
            mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
            for number, row in enumerate(rows):
                length = len(row.ids)
                ids[number, :length] = torch.from_numpy(row.ids)
                mask[number, :length] = 1
                labels[number, :length] = torch.where(torch.from_numpy(row.labelled), ids[number, :length], -100)
            self._model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
            optimizer = self._optimizers[name]
            nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)
            optimizer.step()
            optimizer.zero_grad()
        return changing


if __name__ == "__main__":
    main()
