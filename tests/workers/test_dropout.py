"""Dropout: the right distribution, on the adapter's branch alone, and drawn by nobody but the job itself."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from jobs.spec import JobSpec
from tests.models import make_data, make_spec, make_worker, tiny_llama, train
from workers.lora import DropoutDraw, Factors, MultiAdapterLinear, Router, Segment

CPU = torch.device("cpu")


def draw(probability: float = 0.5, seed: int = 1, step: int = 0, micro_batch: int = 0) -> DropoutDraw:
    return DropoutDraw(probability=probability, seed=seed, step=step, micro_batch=micro_batch)


@pytest.mark.parametrize("probability", [0.05, 0.1, 0.5, 0.9])
def test_the_share_of_kept_inputs_is_one_minus_the_probability(probability: float) -> None:
    shape = (500, 400)
    keep = draw(probability).mask("module", shape, CPU).double()
    deviation = math.sqrt(probability * (1 - probability))
    assert abs(float(keep.mean()) - (1 - probability)) < 5 * deviation / math.sqrt(keep.numel())
    # Not only on average: no row and no column is dropped more than chance has it.
    for dim in (0, 1):
        worst = float((keep.mean(dim) - (1 - probability)).abs().max())
        assert worst < 6 * deviation / math.sqrt(shape[dim])


def test_masks_of_other_seeds_steps_micro_batches_and_modules_are_unrelated() -> None:
    shape = (300, 300)
    masks = [
        draw(seed=seed, step=step, micro_batch=micro_batch).mask(module, shape, CPU)
        for seed, step, micro_batch, module in itertools.product((1, 2), (0, 1), (0, 1), ("q_proj", "k_proj"))
    ]
    for first, second in itertools.combinations(masks, 2):
        agreement = float((first == second).double().mean())
        assert abs(agreement - 0.5) < 5 * 0.5 / 300


def test_the_same_draw_gives_the_same_mask_whatever_the_global_generator_did() -> None:
    torch.manual_seed(1)
    before = draw().mask("module", (50, 50), CPU)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(draw().mask("module", (50, 50), CPU), before)
    torch.set_rng_state(state)
    draw().mask("module", (50, 50), CPU)
    assert torch.equal(torch.get_rng_state(), state)


def test_kept_inputs_are_scaled_up_and_the_base_branch_sees_every_input() -> None:
    torch.manual_seed(0)
    base = nn.Linear(400, 3).double().requires_grad_(False)
    router = Router()
    layer = MultiAdapterLinear(base, "module", router)
    a_RI, b_OR = torch.randn(2, 400).double(), torch.randn(3, 2).double()
    factors = Factors(a_RI=a_RI, b_OR=b_OR, grad_a_RI=None, grad_b_OR=None, scale=0.5)
    x = torch.randn(7, 400).double()
    router.route([Segment(start=0, stop=7, path=({"module": factors},), dropout=draw(0.3))])
    delta = layer(x) - base(x)
    keep = draw(0.3).mask("module", (7, 400), CPU)
    expected = 0.5 * (torch.where(keep, x, 0.0) / 0.7) @ a_RI.T @ b_OR.T
    assert (delta - expected).norm() <= 1e-12 * expected.norm()
    b_OR.zero_()
    router.route([Segment(start=0, stop=7, path=({"module": factors},), dropout=draw(0.9))])
    assert torch.equal(layer(x), base(x))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_dropped_input_leaves_no_trace_even_where_it_is_not_finite(value: float) -> None:
    keep = draw().mask("module", (6, 4), CPU)
    halved = DropoutDraw(probability=0.5, seed=0, step=0, micro_batch=0)
    assert torch.equal(halved.apply(torch.where(keep, 1.5, value), keep), keep * 3.0)


NEIGHBOURS = ("before", "after")


def spec_of(name: str, *, packing: str = "shared", dropout: float = 0.3, dtype: torch.dtype = torch.float32) -> JobSpec:
    return make_spec(
        name,
        dtype=dtype,
        packing=packing,
        lora={"r": 4, "lora_dropout": dropout, "init_lora_weights": False},
        training={
            "max_steps": 4,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "learning_rate": 1e-3,
            "seed": 7,
        },
    )


def test_a_jobs_draws_are_those_it_would_make_alone_and_are_all_different(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The neighbours have the very same seed, rows and settings: what differs is only who they are."""
    data = {name: make_data(1, [5, 3, 8, 2]) for name in ("job", *NEIGHBOURS)}
    drawn: dict[tuple[object, ...], torch.Tensor] = {}
    mask = DropoutDraw.mask

    def watched(self: DropoutDraw, module: str, shape: tuple[int, int], device: torch.device) -> torch.Tensor:
        keep = mask(self, module, shape, device)
        key = (self.seed, self.step, self.micro_batch, module)
        assert key not in drawn or torch.equal(drawn[key], keep)
        drawn[key] = keep
        return keep

    monkeypatch.setattr(DropoutDraw, "mask", watched)
    dtype = torch.float64
    alone = train(make_worker(tiny_llama(dtype), data, tmp_path / "alone"), [spec_of("job", dtype=dtype)])
    by_itself = dict(drawn)
    together = train(
        make_worker(tiny_llama(dtype), data, tmp_path / "together"),
        [spec_of(name, dtype=dtype) for name in ("before", "job", "after")],
    )
    assert drawn.keys() == by_itself.keys()
    assert len(drawn) == 4 * 2 * 3 * 7
    assert len({keep.numpy().tobytes() for keep in drawn.values()}) == len(drawn)
    assert together.losses("job") == pytest.approx(alone.losses("job"), rel=1e-9, abs=0)


def test_evaluation_drops_nothing(tmp_path: Path) -> None:
    """Before the first step jobs that differ in dropout alone evaluate to the same bits."""
    data = {name: make_data(1, [5, 3, 8, 2], held_out=[4, 9, 2]) for name in ("dropping", "keeping")}
    trained = train(
        make_worker(tiny_llama(), data, tmp_path),
        [spec_of("dropping", packing="exact", dropout=0.5), spec_of("keeping", packing="exact", dropout=0.0)],
    )
    assert trained.evaluations("dropping")[0].loss == trained.evaluations("keeping")[0].loss
    assert trained.losses("dropping")[0] != trained.losses("keeping")[0]
    assert trained.evaluations("dropping")[-1].loss != trained.evaluations("keeping")[-1].loss
