"""An independent reading of finished adapters: PEFT and transformers, padded batches, nothing of the packed engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel

from workers.dataset import Row


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What PEFT finds on the held-out rows."""

    loss: float
    """Mean over label tokens."""
    exact_match: float
    """Share of rows whose every completion token and end token is the most likely one."""


def load_base(path: str, dtype: torch.dtype) -> PreTrainedModel:
    """A fresh copy of the base, as any user would load it."""
    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype).eval()


def read_artifact(base: PreTrainedModel, artifact: Path, rows: Sequence[Row], batch_size: int = 8) -> Reading:
    """Open an artifact in PEFT, measure it, and leave the base as it was."""
    model = PeftModel.from_pretrained(base, str(artifact)).eval()
    try:
        return read(model, rows, batch_size)
    finally:
        model.unload()


@torch.no_grad()
def read(model: torch.nn.Module, rows: Sequence[Row], batch_size: int = 8) -> Reading:
    """Loss and exact match of any causal language model on rows, in padded batches of near lengths."""
    total, labels, exact = 0.0, 0, 0
    by_length = sorted(rows, key=lambda row: len(row.ids))
    for start in range(0, len(by_length), batch_size):
        batch = by_length[start : start + batch_size]
        longest = max(len(row.ids) for row in batch)
        ids = torch.zeros(len(batch), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        targets = torch.full_like(ids, -100)
        for number, row in enumerate(batch):
            length = len(row.ids)
            ids[number, :length] = torch.from_numpy(row.ids)
            mask[number, :length] = 1
            targets[number, :length][torch.from_numpy(row.labelled)] = ids[number, :length][
                torch.from_numpy(row.labelled)
            ]
        logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
        wanted = targets[:, 1:]
        total += float(
            torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), wanted.flatten(), ignore_index=-100, reduction="sum"
            )
        )
        labels += int((wanted != -100).sum())
        exact += int(((logits.argmax(-1) == wanted) | (wanted == -100)).all(dim=1).sum())
    return Reading(loss=total / labels, exact_match=exact / len(rows))
