"""Tiny random models, rows without a tokenizer, and workers that take both: what the numeric tests train on.

The weights are drawn wide (`initializer_range` 0.2): at the default of 0.02 a random model is so flat that leaving out
its rotary embeddings moves the loss by less than a test would notice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from jobs.records import Assignment, BaseKey, EvalReport, Report, StateReport, StepReport
from jobs.spec import JobSpec
from workers.base_model import BaseModel
from workers.dataset import Counts, JobData, TokenisedRows
from workers.job_run import JobRun
from workers.settings import WorkerSettings
from workers.worker import Worker

VOCABULARY = 97
DTYPE_NAMES = {
    torch.float64: "float64",
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}


def tiny_llama(dtype: torch.dtype = torch.float32, **config: Any) -> PreTrainedModel:
    """Three layers, four query heads on two key/value heads, rotary positions."""
    settings: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "initializer_range": 0.2,
        "attention_dropout": 0.0,
        "tie_word_embeddings": False,
    }
    return filled(LlamaForCausalLM, LlamaConfig(**settings | config), dtype)


def tiny_gpt2(dtype: torch.dtype = torch.float32, **config: Any) -> PreTrainedModel:
    """Two layers of Conv1D with biases, learned positions, tied embeddings."""
    settings: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 64,
        "initializer_range": 0.2,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    }
    return filled(GPT2LMHeadModel, GPT2Config(**settings | config), dtype)


def filled(kind: Callable[..., PreTrainedModel], config: Any, dtype: torch.dtype, seed: int = 0) -> PreTrainedModel:
    """A model of this config; biases and norms are random as well, so that dropping one of them shows."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config._attn_implementation = "sdpa"
        model = kind(config)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.data.normal_(std=0.1)
            elif parameter.dim() == 1:
                parameter.data.normal_(mean=1.0, std=0.1)
    return model.to(dtype).eval()


def _norm_in_own_dtype(self: Any, hidden: Tensor) -> Tensor:
    variance = hidden.pow(2).mean(-1, keepdim=True)
    return self.weight * (hidden * torch.rsqrt(variance + self.variance_epsilon))


@contextmanager
def norms_in_own_dtype() -> Iterator[None]:
    """Llama's norms round to fp32 inside, which would hide everything below 1e-8 of an fp64 comparison."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LlamaRMSNorm, "forward", _norm_in_own_dtype)
        yield


def make_rows(
    seed: int, lengths: Sequence[int], *, vocabulary: int = VOCABULARY, share_labelled: float = 0.6
) -> TokenisedRows:
    """Random rows of these lengths; labels on a random part of the tokens, never the first, always the last."""
    draw = np.random.default_rng(seed)
    labelled = []
    for length in lengths:
        mask = draw.random(length) < share_labelled
        mask[0], mask[-1] = False, True
        labelled.append(mask)
    ids = draw.integers(0, vocabulary, sum(lengths), dtype=np.int32)
    counts = Counts(rows=len(lengths), truncated=0, dropped=0)
    return TokenisedRows(ids, np.concatenate(labelled), np.cumsum(lengths), np.arange(len(lengths)), counts)


def make_data(seed: int, lengths: Sequence[int], *, held_out: Sequence[int] = (), **rows: Any) -> JobData:
    """A job's rows, with others to evaluate on where `held_out` gives their lengths."""
    evaluation = make_rows(seed + 1000, held_out, **rows) if held_out else None
    return JobData(train=make_rows(seed, lengths, **rows), evaluation=evaluation, notes=())


def make_spec(name: str, *, dtype: torch.dtype = torch.float32, packing: str = "shared", **blocks: Any) -> JobSpec:
    """A spec whose rows are injected: its dataset names no file. `blocks` are `lora` and `training`."""
    return JobSpec.model_validate(
        {
            "name": name,
            "model": {"model_name_or_path": "tiny", "dtype": DTYPE_NAMES[dtype]},
            "datasets": [{"path": "injected.jsonl"}],
            "scheduling": {"packing": packing},
            **blocks,
        }
    )


def make_worker(
    model: PreTrainedModel,
    data: Mapping[str, JobData],
    staging_dir: Path,
    *,
    layout: str | None = None,
    token_budget: int = 4096,
    capacity_bytes: int = 2**33,
    device: str = "cpu",
    **settings: Any,
) -> Worker:
    """A worker on a ready model that finds a job's rows in `data` by its name. `settings` are those of the worker."""

    def load_base(key: BaseKey, device: torch.device) -> BaseModel:
        base = BaseModel(model, key, device)
        if layout == "padded":
            base.layout = "padded"
            base.model.set_attn_implementation("sdpa")
        return base

    worker = Worker(
        "worker-0",
        BaseKey(model_name_or_path="tiny", revision=None, dtype=DTYPE_NAMES[model.dtype]),
        WorkerSettings(staging_dir=staging_dir, token_budget=token_budget, capacity_bytes=capacity_bytes, **settings),
        device=device,
        load_base=load_base,
        load_data=lambda spec, key, now: data[spec.name],
    )
    worker.load()
    return worker


Weights = dict[str, tuple[Tensor, Tensor]]
"""Module name → (A, B)."""


def weights_of(run: JobRun) -> Weights:
    """A copy of a job's factors as they are now."""
    return {
        name: (factors.a_RI.detach().clone(), factors.b_OR.detach().clone())
        for name, factors in run.adapter.factors.items()
    }


@dataclass
class Trained:
    """What a worker made of its jobs."""

    runs: dict[str, JobRun]
    initial: dict[str, Weights]
    reports: list[Report] = field(default_factory=list)

    def final(self, job_id: str) -> Weights:
        """The job's factors as they were left."""
        return weights_of(self.runs[job_id])

    def steps(self, job_id: str) -> list[StepReport]:
        """The job's optimizer steps."""
        return [one for one in self.reports if isinstance(one, StepReport) and one.job_id == job_id]

    def losses(self, job_id: str) -> list[float]:
        """The job's loss at each step."""
        return [report.loss for report in self.steps(job_id)]

    def evaluations(self, job_id: str) -> list[EvalReport]:
        """The job's evaluations."""
        return [one for one in self.reports if isinstance(one, EvalReport) and one.job_id == job_id]

    def end(self, job_id: str) -> StateReport:
        """The last change of the job's state."""
        return [one for one in self.reports if isinstance(one, StateReport) and one.job_id == job_id][-1]


def admit(worker: Worker, specs: Sequence[JobSpec]) -> Trained:
    """Hand jobs to a worker, each under its name as id, and admit them without a step."""
    worker.assign([Assignment(job_id=spec.name, spec=spec) for spec in specs])
    worker._accounts.start()
    worker._admit()
    runs = worker.runs()
    return Trained(runs=runs, initial={job_id: weights_of(run) for job_id, run in runs.items()})


def train(worker: Worker, specs: Sequence[JobSpec], *, before: Callable[[Trained], None] | None = None) -> Trained:
    """Train jobs together until the worker has nothing left to do. `before` may tamper with the admitted jobs."""
    trained = admit(worker, specs)
    if before is not None:
        before(trained)
    while not worker.is_idle:
        trained.reports += worker.step()
    return trained
