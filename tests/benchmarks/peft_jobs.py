"""What people use today: PEFT and torch.optim, one job after the other on one base, batches padded by a collator.

Imports nothing of the engine: a process with these jobs holds what a PEFT user's process holds.

Shape legend: B rows, L longest row.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from tests.benchmarks.setting import ALPHA, LEARNING_RATE, MAX_GRAD_NORM, RANK, TORCH_DTYPES, Setting, TokenRow

OPTIMIZERS = {"fused": True, "plain": None}
"""AdamW's `fused`: transformers' Trainer turns it on by default; torch's own constructor does not."""


class PeftSequential:
    """Jobs that take turns on one base, each with an adapter and an optimizer of its own."""

    name = "peft_sequential"

    def __init__(self, setting: Setting, job_names: Sequence[str] | None = None, optimizer: str = "fused") -> None:
        """Load the base and make the adapters.

        Args:
            setting: Base and dtype; also the jobs, where `job_names` does not name some of them.
            job_names: Jobs of this process.
            optimizer: A key of `OPTIMIZERS`.
        """
        base = AutoModelForCausalLM.from_pretrained(
            setting.inputs.model, dtype=getattr(torch, TORCH_DTYPES[setting.dtype])
        )
        self._names = list(job_names or setting.job_names)
        config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
        self._model = get_peft_model(base, config, adapter_name=self._names[0])
        for name in self._names[1:]:
            self._model.add_adapter(name, config)
        self._model.train()
        self._optimizers: dict[str, torch.optim.Optimizer] = {}
        for name in self._names:
            self._model.set_adapter(name)
            self._optimizers[name] = torch.optim.AdamW(
                [parameter for parameter in self._model.parameters() if parameter.requires_grad],
                lr=LEARNING_RATE,
                weight_decay=0.0,
                fused=OPTIMIZERS[optimizer],
            )

    @property
    def adapter_parameters(self) -> int:
        """Trainable scalars of one job."""
        return sum(parameter.numel() for parameter in self._optimizers[self._names[0]].param_groups[0]["params"])

    def step(self, rows_by_job: Sequence[Sequence[TokenRow]]) -> float:
        """Seconds of an optimizer step of every job, without those that went into changing jobs.

        Run to their ends one after the other, jobs change rarely; only for the comparison do they take turns.
        """
        seconds = 0.0
        for name, rows in zip(self._names, rows_by_job, strict=True):
            self._model.set_adapter(name)
            began = time.perf_counter()
            ids_BL, mask_BL, labels_BL = collate(rows)
            self._model(input_ids=ids_BL, attention_mask=mask_BL, labels=labels_BL).loss.backward()
            optimizer = self._optimizers[name]
            nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], MAX_GRAD_NORM)
            optimizer.step()
            optimizer.zero_grad()
            seconds += time.perf_counter() - began
        return seconds

    def close(self) -> None:
        """Nothing to give back."""


def collate(rows: Sequence[TokenRow]) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, attention mask and labels, each (B, L), padded at the end to the batch's longest row."""
    longest = padded_tokens(rows) // len(rows)
    ids_BL = torch.zeros(len(rows), longest, dtype=torch.long)
    mask_BL, labels_BL = torch.zeros_like(ids_BL), torch.full_like(ids_BL, -100)
    for number, row in enumerate(rows):
        length = len(row.ids)
        ids_BL[number, :length] = torch.from_numpy(row.ids)
        mask_BL[number, :length] = 1
        labels_BL[number, :length] = torch.where(torch.from_numpy(row.labelled), ids_BL[number, :length], -100)
    return ids_BL, mask_BL, labels_BL


def padded_tokens(rows: Sequence[TokenRow]) -> int:
    """Positions that a padded batch of these rows has."""
    return len(rows) * max(len(row.ids) for row in rows)
