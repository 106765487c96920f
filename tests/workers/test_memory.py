"""Predicted bytes grow with everything that costs bytes, and lie above what a pack is seen to keep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd.graph import saved_tensors_hooks
from transformers import PreTrainedModel

from tests.models import admit, make_data, make_spec, make_worker, tiny_gpt2, tiny_llama
from workers.adapter import allocate
from workers.memory import BaseShape, Demand, PackLoad, adapter_bytes, demand, worker_bytes
from workers.memory_meter import device_bytes
from workers.structure import read_structure
from workers.targets import resolve

SHAPE = BaseShape(num_parameters=1000, itemsize=2, vocab_size=97, linear_features=640)
demands = st.builds(
    lambda adapter, tokens, share: Demand(
        adapter_bytes=adapter, worst_tokens=tokens, worst_labels=max(1, round(tokens * share))
    ),
    st.integers(0, 10**9),
    st.integers(1, 5000),
    st.floats(0, 1),
)


@given(st.lists(demands, max_size=8), demands, st.integers(1, 10**5))
def test_another_job_never_needs_less(known: list[Demand], other: Demand, budget: int) -> None:
    before, after = worker_bytes(SHAPE, known, budget), worker_bytes(SHAPE, [*known, other], budget)
    assert after >= before + other.adapter_bytes
    assert before >= SHAPE.base_bytes


@given(st.lists(demands, min_size=1, max_size=8), st.integers(1, 10**5), st.integers(0, 10**5))
def test_a_larger_budget_never_needs_less(known: list[Demand], budget: int, more: int) -> None:
    assert worker_bytes(SHAPE, known, budget + more) >= worker_bytes(SHAPE, known, budget)


@given(st.integers(1, 10**5), st.integers(0, 10**5), st.integers(1, 10**4), st.integers(0, 10**4))
def test_more_tokens_or_labels_never_need_less(tokens: int, more: int, labels: int, others: int) -> None:
    less = PackLoad(tokens=tokens, labels=labels)
    larger = PackLoad(tokens=tokens + more, labels=labels + others)
    assert SHAPE.pack_bytes(larger) >= SHAPE.pack_bytes(less) > 0


def test_an_idle_worker_needs_its_base_alone() -> None:
    assert worker_bytes(SHAPE, [], 4096) == SHAPE.base_bytes == 2000


def test_an_adapter_is_counted_with_gradient_and_moments() -> None:
    lora = make_spec("job", lora={"r": 5}).lora
    targets = resolve(lora, read_structure(tiny_llama()))
    adapter = allocate(targets, dtype=torch.float32, device=torch.device("cpu"))
    assert adapter_bytes(targets) == 4 * 4 * adapter.num_parameters


def test_a_micro_batch_is_taken_at_its_worst() -> None:
    spec = make_spec("job", lora={"r": 2}, training={"per_device_train_batch_size": 2})
    data = make_data(1, [3, 9, 4, 8], share_labelled=1.0)
    worst = demand(spec, data, resolve(spec.lora, read_structure(tiny_llama())))
    assert worst.worst_tokens == 17
    assert 1 <= worst.worst_labels <= 17


def kept_bytes(worker: Any, before: set[int]) -> int:
    """Distinct bytes that the next pack's forward keeps for its backward, weights not counted."""
    storages: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in before:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        worker.step()
    return sum(storages.values())


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("build", [tiny_llama, tiny_gpt2])
def test_what_a_pack_keeps_lies_below_the_prediction(
    build: Any, dtype: torch.dtype, layout: str, tmp_path: Path
) -> None:
    """With dropout, high rank and a label on every token: the dearest pack there is."""
    specs = [
        make_spec(
            f"job-{number}",
            dtype=dtype,
            lora={"r": 8, "lora_dropout": 0.1},
            training={"max_steps": 1, "per_device_train_batch_size": 4},
        )
        for number in range(3)
    ]
    data = {spec.name: make_data(number, [40] * 4, share_labelled=1.0) for number, spec in enumerate(specs)}
    model: PreTrainedModel = build(dtype)
    worker = make_worker(model, data, tmp_path, layout=layout)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    admitted = admit(worker, specs)
    tokens = sum(run.demand.worst_tokens for run in admitted.runs.values())
    labels = sum(run.demand.worst_labels for run in admitted.runs.values())
    assert tokens == 3 * 4 * 40
    predicted = worker._admission.shape.pack_bytes(PackLoad(tokens=tokens, labels=labels))
    measured = kept_bytes(worker, weights)
    assert 0.1 * predicted < measured < predicted


def test_memory_of_this_machine_is_known() -> None:
    free = device_bytes(torch.device("cpu"))
    assert 2**20 < free < 2**50


def test_labels_at_their_densest_are_foreseen() -> None:
    """One row in ten is all labels: a micro-batch can consist of such rows alone."""
    rows: Sequence[int] = [20] * 10
    spec = make_spec("job", lora={"r": 2}, training={"per_device_train_batch_size": 1})
    data = make_data(1, rows, share_labelled=0.0)
    data.train._labelled[1:20] = True
    worst = demand(spec, data, resolve(spec.lora, read_structure(tiny_llama())))
    assert worst.worst_labels >= max(row.num_labels for row in data.train)
