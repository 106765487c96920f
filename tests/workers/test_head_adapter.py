"""Factors on the output head: the formula with its gradients, evaluation, neighbours, and what is kept of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from jobs.spec import JobSpec
from tests.models import Trained, make_data, make_spec, make_worker, tiny_llama, train
from tests.workers.test_isolation import LENGTHS, assert_same_bits, nan_weights, odd_llama, spec_of
from workers.adapter import allocate
from workers.chunks import chunk_labels
from workers.dataset import Row
from workers.head_adapter import adapted_head_losses, find_head_runs
from workers.memory import demand
from workers.routing import DropoutDraw, Factors, Segment
from workers.structure import read_structure
from workers.targets import resolve

WIDTH, VOCABULARY = 6, 11
LABELLED = ([0, 1, 1], [0, 0, 1, 1, 0], [0, 1])
ROWS = [Row(index=0, ids=np.zeros(len(row), dtype=np.int32), labelled=np.array(row, dtype=bool)) for row in LABELLED]
BARE, FIRST, SECOND = (Segment(start=start, stop=stop, path=()) for start, stop in ((0, 3), (3, 8), (8, 10)))


def factors_of(seed: int, *, frozen: bool = False) -> Factors:
    draw = torch.Generator().manual_seed(seed)
    a_RI = torch.randn(2, WIDTH, dtype=torch.float64, generator=draw)
    b_OR = torch.randn(2, VOCABULARY, dtype=torch.float64, generator=draw).T
    grads = (None, None) if frozen else (torch.zeros_like(a_RI), torch.zeros_like(b_OR.T).T)
    return Factors(a_RI=a_RI, b_OR=b_OR, grad_a_RI=grads[0], grad_b_OR=grads[1], scale=0.5 + seed)


def inputs() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return {
        "hidden_ND": torch.randn(5, WIDTH, dtype=torch.float64, generator=draw),
        "weight_VD": torch.randn(VOCABULARY, WIDTH, dtype=torch.float64, generator=draw),
        "bias_V": torch.randn(VOCABULARY, dtype=torch.float64, generator=draw),
        "labels_N": torch.tensor([1, 4, 0, 10, 7]),
        "weights_N": torch.tensor([0.5, 0.5, 0.25, 0.25, 1.0], dtype=torch.float64),
    }


def test_no_labels_are_cut_where_no_job_has_factors_on_the_head() -> None:
    elsewhere = replace(FIRST, path=({"q_proj": factors_of(1)},))
    assert find_head_runs(ROWS, [BARE, elsewhere, SECOND], "lm_head") is None


def test_labels_are_cut_where_the_factors_change() -> None:
    first = replace(FIRST, path=({"lm_head": factors_of(1)},))
    runs = find_head_runs(ROWS, [BARE, first, SECOND], "lm_head")
    assert runs is not None
    assert [(run.num_labels, len(run.factors)) for run in runs] == [(2, 0), (2, 1), (1, 0)]
    assert runs[1].predict_n is not None
    assert runs[1].predict_n.tolist() == [1, 2]


def test_losses_and_all_gradients_are_those_of_the_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two jobs: one with a frozen ancestor and dropout, one plain; a bare one before them. One label a chunk."""
    monkeypatch.setattr("workers.head_adapter.chunk_labels", lambda vocab_size: 1)
    above, leaf, other = factors_of(1, frozen=True), factors_of(2), factors_of(3)
    dropout = DropoutDraw(probability=0.4, seed=7, step=1, micro_batch=0)
    segments = [
        BARE,
        replace(FIRST, path=({"lm_head": above}, {"lm_head": leaf}), dropout=dropout),
        replace(SECOND, path=({"lm_head": other},)),
    ]
    runs = find_head_runs(ROWS, segments, "lm_head")
    assert runs is not None
    given = inputs()
    hidden_ND = given["hidden_ND"].requires_grad_()
    found = adapted_head_losses(**given, runs=runs)
    found.total.backward()

    plain_ND = given["hidden_ND"].detach().clone().requires_grad_()
    copies = {id(one): [one.a_RI.clone().requires_grad_(), one.b_OR.clone().requires_grad_()] for one in (leaf, other)}
    copies[id(above)] = [above.a_RI, above.b_OR]

    def delta(one: Factors, x_nD: Tensor) -> Tensor:
        a_RI, b_OR = copies[id(one)]
        return one.scale * (x_nD @ a_RI.T) @ b_OR.T

    dropped_nD = plain_ND[2:4] * dropout.mask("lm_head", (5, WIDTH), torch.device("cpu"))[[1, 2]] / 0.6
    logits_NV = F.linear(plain_ND, given["weight_VD"], given["bias_V"]) + torch.cat(
        [
            torch.zeros(2, VOCABULARY, dtype=torch.float64),
            delta(above, plain_ND[2:4]) + delta(leaf, dropped_nD),
            delta(other, plain_ND[4:]),
        ]
    )
    losses_N = F.cross_entropy(logits_NV, given["labels_N"], reduction="none")
    (losses_N * given["weights_N"]).sum().backward()
    torch.testing.assert_close(found.losses_N, losses_N.detach(), rtol=1e-12, atol=0)
    assert torch.equal(found.hits_N, logits_NV.argmax(dim=-1) == given["labels_N"])
    torch.testing.assert_close(hidden_ND.grad, plain_ND.grad, rtol=1e-10, atol=1e-14)
    for one in (leaf, other):
        torch.testing.assert_close(one.grad_a_RI, copies[id(one)][0].grad, rtol=1e-10, atol=1e-14)
        torch.testing.assert_close(one.grad_b_OR, copies[id(one)][1].grad, rtol=1e-10, atol=1e-14)


def test_without_gradients_nothing_is_added_to_the_factors() -> None:
    own = factors_of(1)
    runs = find_head_runs(ROWS, [replace(FIRST, path=({"lm_head": own},))], "lm_head")
    assert runs is not None
    with torch.no_grad():
        found = adapted_head_losses(**inputs(), runs=runs)
    assert not found.total.requires_grad
    assert own.grad_a_RI is not None
    assert own.grad_b_OR is not None
    assert not own.grad_a_RI.any()
    assert not own.grad_b_OR.any()


def with_head(name: str, dtype: torch.dtype = torch.float32, **training: Any) -> JobSpec:
    """A job of the isolation tests; `faulty` and `left` train the head as well."""
    spec = spec_of(name, dtype, **training)
    if name not in ("faulty", "left"):
        return spec
    lora = spec.lora.model_copy(update={"target_modules": ("q_proj", "lm_head")})
    return spec.model_copy(update={"lora": lora})


def together(folder: Path, dtype: torch.dtype, build: Any, before: Any = None, **settings: Any) -> Trained:
    data = {name: make_data(seed, lengths) for seed, (name, lengths) in enumerate(LENGTHS.items())}
    worker = make_worker(build(dtype), data, folder, **settings)
    return train(worker, [with_head(name, dtype) for name in LENGTHS], before=before)


@pytest.mark.parametrize("settings", [{}, {"num_lanes": 2}, {"grouped": True}, {"layout": "padded"}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_nan_job_with_a_head_changes_no_bit_of_its_neighbours(
    dtype: torch.dtype, settings: dict[str, Any], tmp_path: Path
) -> None:
    healthy = together(tmp_path / "healthy", dtype, odd_llama, **settings)
    faulty = together(tmp_path / "faulty", dtype, odd_llama, nan_weights, **settings)
    assert all(step.skipped for step in faulty.steps("faulty"))
    assert not any(step.skipped for step in healthy.steps("left"))
    assert healthy.final("left")["lm_head"][1].any()
    for name in ("left", "middle", "right"):
        assert_same_bits(faulty, healthy, name)


def test_the_evaluation_is_of_the_adapted_head(tmp_path: Path) -> None:
    """Loss of the held-out rows as the base and the head's factors give it by hand."""
    data = {"job": make_data(1, [5, 7, 4], held_out=[6, 3])}
    training = {"max_steps": 3, "learning_rate": 0.1, "eval_strategy": "steps", "eval_steps": 3}
    spec = make_spec("job", val_size=2, lora={"r": 3, "target_modules": ["lm_head"]}, training=training)
    trained = train(make_worker(tiny_llama(), data, tmp_path), [spec])
    a_RI, b_OR = trained.final("job")["lm_head"]
    scale = trained.runs["job"].adapter.factors["lm_head"].scale
    model, losses = tiny_llama(), []
    assert data["job"].evaluation is not None
    for row in data["job"].evaluation:
        with torch.no_grad():
            hidden_TD = model.base_model(torch.from_numpy(row.ids)[None].long()).last_hidden_state[0]
            logits_TV = model.get_output_embeddings()(hidden_TD) + scale * hidden_TD @ a_RI.T @ b_OR.T
        ids = torch.from_numpy(row.ids[1:]).long()
        losses += F.cross_entropy(logits_TV[:-1], ids, reduction="none")[torch.from_numpy(row.labelled[1:])].tolist()
    assert trained.evaluations("job")[-1].loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert trained.evaluations("job")[-1].loss != pytest.approx(trained.evaluations("job")[0].loss, rel=1e-2)


def test_memory_counts_the_heads_factors_and_the_copies_of_its_logits() -> None:
    structure = read_structure(tiny_llama())
    data = make_data(1, [3, 9, 4, 8], share_labelled=1.0)
    needs = {}
    for names in (["q_proj"], ["q_proj", "lm_head"]):
        spec = make_spec("job", lora={"r": 2, "target_modules": names}, training={"per_device_train_batch_size": 2})
        targets = resolve(spec.lora, structure)
        needs[len(names)] = demand(spec, data, targets)
    factors = 2 * (32 + 97) * 4 * 4
    logits = 3 * min(needs[2].worst_labels, chunk_labels(97)) * 97 * 4
    assert needs[2].adapter_bytes - needs[1].adapter_bytes >= factors + logits
    assert allocate(targets, dtype=torch.float32, device=torch.device("cpu")).num_parameters == sum(
        target.num_parameters for target in targets.values()
    )
