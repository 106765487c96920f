"""The same promises on a CUDA device: equal to the CPU's numbers, and one job's NaN its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from jobs.records import JobState
from tests.models import Trained, make_data, make_spec, make_worker, tiny_gpt2, tiny_llama, train
from tests.parity.oracle import distance
from tests.parity.scenario import GPT2, LLAMA, Family, four_data, four_jobs

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture(autouse=True)
def _whole_fp32() -> None:
    """TF32 has 10 bits and would hide an error of one in a thousand."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def run(
    family: Family,
    folder: Path,
    *,
    device: str,
    dtype: torch.dtype = torch.float32,
    layout: str | None = None,
    before: Callable[[Trained], None] | None = None,
) -> Trained:
    """The four unlike jobs. Dropout off: a device draws other masks than the CPU does."""
    specs = four_jobs(family, dtype, dropout=0.0)
    worker = make_worker(family.build(dtype), four_data(), folder, device=device, layout=layout)
    return train(worker, specs, before=before)


@pytest.mark.parametrize("family", [LLAMA, GPT2], ids=lambda family: family.name)
@pytest.mark.parametrize("layout", [None, "padded"])
def test_fp32_training_on_cuda_equals_that_on_the_cpu(layout: str | None, family: Family, tmp_path: Path) -> None:
    on_cpu = run(family, tmp_path / "cpu", device="cpu")
    on_cuda = run(family, tmp_path / "cuda", device="cuda", layout=layout)
    for name in on_cpu.runs:
        assert on_cuda.losses(name) == pytest.approx(on_cpu.losses(name), rel=1e-4, abs=0)
        ours = {module: (a.cpu(), b.cpu()) for module, (a, b) in on_cuda.final(name).items()}
        assert distance(ours, on_cpu.final(name)) <= 1e-4


@pytest.mark.parametrize("family", [LLAMA, GPT2], ids=lambda family: family.name)
def test_a_bf16_base_trains_to_finite_losses_near_those_of_fp32(family: Family, tmp_path: Path) -> None:
    rounded = run(family, tmp_path / "bf16", device="cuda", dtype=torch.bfloat16)
    whole = run(family, tmp_path / "fp32", device="cuda")
    for name in rounded.runs:
        assert rounded.end(name).state is JobState.SUCCEEDED
        losses = rounded.losses(name)
        assert all(math.isfinite(loss) for loss in losses)
        assert not any(step.skipped for step in rounded.steps(name))
        # Before the first update the two differ by the rounding of weights and activations to 8 bits alone.
        assert losses[0] == pytest.approx(whole.losses(name)[0], rel=0.05)


@pytest.mark.parametrize("position", ["first", "last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", [None, "padded"])
@pytest.mark.parametrize("build", [tiny_llama, tiny_gpt2])
def test_a_nan_job_changes_no_bit_of_its_neighbours(
    build: Callable[[torch.dtype], PreTrainedModel],
    layout: str | None,
    dtype: torch.dtype,
    position: str,
    tmp_path: Path,
) -> None:
    data = four_data()
    order = ["everywhere", "dropped", "descent", "stabilised"]
    faulty = order[0] if position == "first" else order[-1]

    def trained(folder: str, poison: bool) -> Trained:
        specs = [
            make_spec(
                name,
                dtype=dtype,
                lora={"r": 4, "lora_dropout": 0.1},
                training={"max_steps": 6, "weight_decay": 0.1, "max_nonfinite_steps": 100, "seed": number},
            )
            for number, name in enumerate(order)
        ]

        def tamper(admitted: Trained) -> None:
            if poison:
                admitted.runs[faulty].adapter.values.data.fill_(float("nan"))

        worker = make_worker(build(dtype), data, tmp_path / folder, device="cuda", layout=layout)
        return train(worker, specs, before=tamper)

    healthy, beside_nan = trained("healthy", False), trained("faulty", True)
    assert all(step.skipped for step in beside_nan.steps(faulty))
    for name in order:
        if name != faulty:
            assert beside_nan.losses(name) == healthy.losses(name)
            assert torch.equal(beside_nan.runs[name].adapter.values, healthy.runs[name].adapter.values)


def test_two_runs_on_one_device_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = (run(LLAMA, tmp_path / folder, device="cuda") for folder in ("first", "second"))
    for name in first.runs:
        assert first.losses(name) == second.losses(name)
        assert torch.equal(first.runs[name].adapter.values, second.runs[name].adapter.values)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_an_exact_job_in_16_bits_repeats_its_bytes(dtype: torch.dtype, checkpointing: bool, tmp_path: Path) -> None:
    """The backward of flash attention adds up in any order: 20 steps, twice, alone and beside another job."""
    data = {name: make_data(seed, [30, 45, 7, 50]) for seed, name in enumerate(("job", "other"))}
    training = {"max_steps": 20, "per_device_train_batch_size": 4, "gradient_checkpointing": checkpointing}
    adapters = []
    for number, names in enumerate((("job",), ("job",), ("other", "job"))):
        specs = [make_spec(name, dtype=dtype, packing="exact", training=training) for name in names]
        worker = make_worker(tiny_llama(dtype), data, tmp_path / str(number), device="cuda")
        adapters.append(train(worker, specs).runs["job"].adapter.values.detach().cpu())
    assert torch.equal(adapters[0], adapters[1])
    assert torch.equal(adapters[0], adapters[2])
