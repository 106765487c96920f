"""A job's numbers are its own: no neighbour changes a bit of them, whatever becomes of the neighbour."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from jobs.records import JobState
from jobs.spec import JobSpec
from tests.models import Trained, admit, make_data, make_spec, make_worker, tiny_gpt2, tiny_llama, train
from tests.published import content
from workers import admission, endings
from workers.dataset import JobData
from workers.job_run import JobRun
from workers.rounds import Rounds

NUM_STEPS = 8
LENGTHS = {"left": [3, 8, 2, 6, 5], "middle": [9, 2, 4, 7, 7, 3], "right": [5, 2, 11, 6], "faulty": [6, 4, 2, 9, 3]}


def spec_of(name: str, dtype: torch.dtype = torch.float32, *, packing: str = "shared", **training: Any) -> JobSpec:
    lora: dict[str, dict[str, Any]] = {
        "left": {"r": 4, "lora_alpha": 8},
        "middle": {"r": 2, "lora_alpha": 8, "target_modules": ["*attn*"], "lora_dropout": 0.1},
        "right": {"r": 8, "lora_alpha": 4, "use_rslora": True},
        "faulty": {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1},
    }
    own: dict[str, dict[str, Any]] = {
        "left": {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2, "learning_rate": 1e-2, "seed": 1},
        "middle": {"optim": "sgd", "per_device_train_batch_size": 3, "learning_rate": 5e-2, "seed": 2},
        "right": {"per_device_train_batch_size": 1, "learning_rate": 3e-3, "warmup_steps": 3, "seed": 3},
        "faulty": {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2, "seed": 4},
    }
    common = {"max_steps": NUM_STEPS, "weight_decay": 0.2, "max_nonfinite_steps": 1000}
    return make_spec(name, dtype=dtype, packing=packing, lora=lora[name], training=common | own[name] | training)


def data_of(held_out: list[int] | None = None) -> dict[str, JobData]:
    return {
        name: make_data(seed, lengths, held_out=held_out or []) for seed, (name, lengths) in enumerate(LENGTHS.items())
    }


def state_of(run: JobRun) -> dict[str, Any]:
    """Everything that training changes in a job: the tensors and the numbers."""
    moments = {
        f"moment.{name}": value.detach().clone()
        for state in run.optimizer._optimizer.state.values()
        for name, value in state.items()
        if isinstance(value, torch.Tensor)
    }
    return moments | {
        "adapter": run.adapter.values.detach().clone(),
        "gradient": run.adapter.grads.clone(),
        "schedule": run.optimizer._schedule.state_dict()["last_epoch"],
        "rate": run.optimizer._optimizer.param_groups[0]["lr"],
        "counters": (run.step, run.nonfinite_in_a_row, run.tokens, run.cursor.epoch, run.cursor.position),
    }


def changes(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, str]:
    """What differs between two states, bit for bit, and by how much; short enough to be read in a log."""
    found = dict.fromkeys(ours.keys() ^ theirs.keys(), "only in one")
    for key in ours.keys() & theirs.keys():
        mine, other = ours[key], theirs[key]
        if not isinstance(mine, torch.Tensor):
            if mine != other:
                found[key] = f"{mine} against {other}"
        elif mine.numpy().tobytes() != other.numpy().tobytes():
            unlike = (mine != other).nonzero()[:, 0] if mine.dim() else torch.zeros(1, dtype=torch.long)
            distance = float((mine.double() - other.double()).abs().max() / other.double().abs().max())
            found[key] = f"{len(unlike)} of {mine.numel()} numbers, at {unlike[:8].tolist()}, by {distance:.0e} at most"
    return found


def reports_of(trained: Trained, name: str) -> list[dict[str, Any]]:
    """All figures that were reported, but those of the clock."""
    return [
        _without_times(asdict(report) | {"usage": _without_times(asdict(report.usage)) if report.usage else None})
        for report in [*trained.steps(name), *trained.evaluations(name)]
    ]


def _without_times(figures: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in figures.items() if not key.endswith("seconds")}


def assert_same_bits(ours: Trained, theirs: Trained, name: str) -> None:
    assert changes(state_of(ours.runs[name]), state_of(theirs.runs[name])) == {}, name
    for mine, other in zip(reports_of(ours, name), reports_of(theirs, name), strict=True):
        assert mine == other


def relative_distance(ours: Trained, theirs: Trained, name: str) -> float:
    return max(
        float((mine - other).norm() / other.norm())
        for module, factors in theirs.final(name).items()
        for mine, other in zip(ours.final(name)[module], factors, strict=True)
    )


def assert_close(ours: Trained, theirs: Trained, name: str) -> None:
    """Point 5 of the numbers contract, for jobs in fp64; in fp32 no fixed bound holds on every processor."""
    assert ours.runs[name].adapter.values.dtype is torch.float64
    assert ours.losses(name) == pytest.approx(theirs.losses(name), rel=1e-9, abs=0)
    assert relative_distance(ours, theirs, name) <= 1e-7


def odd_llama(dtype: torch.dtype) -> PreTrainedModel:
    """No width a multiple of what matrix kernels like, where some of them read past the end of a row."""
    return tiny_llama(dtype, hidden_size=36, intermediate_size=50, head_dim=10, vocab_size=101)


def nan_weights(trained: Trained) -> None:
    trained.runs["faulty"].adapter.values.data.fill_(float("nan"))


def infinite_weights(trained: Trained) -> None:
    trained.runs["faulty"].adapter.values.data.fill_(float("inf"))


@pytest.mark.parametrize("poison", ["nan weights", "infinite weights", "explosive rate"])
@pytest.mark.parametrize("order", [("faulty", "left", "middle", "right"), ("left", "middle", "right", "faulty")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("build", [tiny_llama, odd_llama, tiny_gpt2])
@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_neighbours_of_a_nan_job_are_bit_equal_to_neighbours_of_a_healthy_one(
    layout: str,
    build: Callable[[torch.dtype], PreTrainedModel],
    dtype: torch.dtype,
    order: tuple[str, ...],
    poison: str,
    tmp_path: Path,
) -> None:
    def trained(folder: str, rate: float, before: Callable[[Trained], None] | None) -> Trained:
        specs = [spec_of(name, dtype, **({"learning_rate": rate} if name == "faulty" else {})) for name in order]
        worker = make_worker(build(dtype), data_of([4, 2, 7]), tmp_path / folder, layout=layout)
        return train(worker, specs, before=before)

    healthy = trained("healthy", 1e-2, None)
    before = {"nan weights": nan_weights, "infinite weights": infinite_weights, "explosive rate": None}[poison]
    faulty = trained("faulty", 1e-2 if before else 1e30, before)
    assert not any(step.skipped for step in healthy.steps("faulty"))
    skipped = [step.skipped for step in faulty.steps("faulty")]
    assert skipped == [before is not None] + [True] * (NUM_STEPS - 1)
    for name in ("left", "middle", "right"):
        assert_same_bits(faulty, healthy, name)
        assert all(b_OR.norm() > 0 for _, b_OR in faulty.final(name).values())


def test_a_skipped_step_leaves_the_jobs_own_weights_moments_and_schedule_alone(tmp_path: Path) -> None:
    worker = make_worker(tiny_llama(), data_of(), tmp_path)
    trained = admit(worker, [spec_of("faulty", gradient_accumulation_steps=1, warmup_steps=4)])
    run = trained.runs["faulty"]
    worker.step()
    before = state_of(run)
    worker.base.model.get_input_embeddings().weight.data.fill_(float("nan"))
    worker.step()
    after = state_of(run)
    assert run.nonfinite_in_a_row == 1
    assert changes(after, before).keys() == {"counters"}


@pytest.mark.parametrize("limit", [1, 3])
@pytest.mark.parametrize("order", [("faulty", "left", "right"), ("left", "right", "faulty")])
def test_a_nan_job_fails_with_its_reason_while_its_neighbours_finish(
    order: tuple[str, ...], limit: int, tmp_path: Path
) -> None:
    specs = [spec_of(name, torch.float64, max_nonfinite_steps=limit) for name in order]
    trained = train(make_worker(tiny_llama(torch.float64), data_of(), tmp_path), specs, before=nan_weights)
    end = trained.end("faulty")
    assert (end.state, end.reason) == (JobState.FAILED, "nonfinite")
    assert f"{limit} steps in a row" in end.message
    assert [step.skipped for step in trained.steps("faulty")] == [True] * limit
    assert not (tmp_path / "faulty").exists()
    for name in ("left", "right"):
        assert trained.end(name).state is JobState.SUCCEEDED
        assert len(trained.steps(name)) == NUM_STEPS
        alone = train(
            make_worker(tiny_llama(torch.float64), data_of(), tmp_path / name), [spec_of(name, torch.float64)]
        )
        assert_close(trained, alone, name)


def test_nothing_of_a_job_changes_while_packs_without_it_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each job in packs of its own: whenever one steps, the others keep every bit."""
    packs = 0
    run_pack = Rounds.run

    def watched(self: Rounds, pack: list[Any]) -> None:
        nonlocal packs
        members = {member.run.job_id for member in pack}
        others = {job_id: run for job_id, run in self._jobs.runs.items() if job_id not in members}
        before = {job_id: state_of(run) for job_id, run in others.items()}
        run_pack(self, pack)
        for job_id, run in others.items():
            assert changes(state_of(run), before[job_id]) == {}
        packs += bool(others)

    monkeypatch.setattr(Rounds, "run", watched)
    worker = make_worker(tiny_llama(), data_of(), tmp_path, token_budget=1)
    trained = train(worker, [spec_of(name) for name in LENGTHS], before=nan_weights)
    assert packs > 3 * NUM_STEPS
    assert {trained.end(name).state for name in ("left", "middle", "right")} == {JobState.SUCCEEDED}


def test_nothing_of_a_job_changes_while_a_neighbour_is_exported_or_released(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = make_worker(tiny_llama(), data_of(), tmp_path)
    admit(worker, [spec_of("left", max_steps=2, gradient_accumulation_steps=1), spec_of("middle"), spec_of("right")])
    exported = []
    export = endings.artifact.export

    def watched(*args: Any, **named: Any) -> None:
        others = {job_id: run for job_id, run in worker.runs().items() if job_id != "left"}
        before = {job_id: state_of(run) for job_id, run in others.items()}
        export(*args, **named)
        for job_id, run in others.items():
            assert changes(state_of(run), before[job_id]) == {}
        exported.append(args[2].job_id)

    monkeypatch.setattr(endings.artifact, "export", watched)
    for _ in range(3):
        worker.step()
    assert exported == ["left"]
    right = worker.runs()["right"]
    before = state_of(right)
    assert worker.release("middle")
    assert changes(state_of(right), before) == {}
    assert list(worker.runs()) == ["right"]
    assert not worker.release("middle")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_bases_bytes_are_the_same_after_training(dtype: torch.dtype, tmp_path: Path) -> None:
    worker = make_worker(tiny_llama(dtype), data_of([3, 5]), tmp_path)
    buffers = {name: buffer.clone() for name, buffer in worker.base.model.named_buffers()}
    before = worker.base.weights_sha256()
    train(worker, [spec_of(name, dtype) for name in LENGTHS], before=nan_weights)
    assert worker.base.weights_sha256() == before == worker.base.fingerprint
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in worker.base.model.named_buffers())
    assert all(parameter.grad is None for parameter in worker.base.model.parameters())


@pytest.mark.parametrize("packing", ["shared", "exact"])
def test_jobs_that_join_and_leave_do_not_disturb_those_that_stay(packing: str, tmp_path: Path) -> None:
    """`exact`: to the bit. `shared`: within point 5 of the numbers contract."""

    dtype = torch.float32 if packing == "exact" else torch.float64

    def stays() -> JobSpec:
        return spec_of("left", dtype, packing=packing, max_steps=12)

    alone = train(make_worker(tiny_llama(dtype), data_of(), tmp_path / "alone"), [stays()])
    worker = make_worker(tiny_llama(dtype), data_of(), tmp_path / "together")
    together = admit(worker, [spec_of("middle", dtype), stays()])
    rounds = 0
    while not worker.is_idle:
        together.reports += worker.step()
        rounds += 1
        if rounds == 3:
            admit(worker, [spec_of("right", dtype)])
        if rounds == 6:
            assert worker.release("middle")
    assert len(together.steps("right")) == NUM_STEPS
    assert len(together.steps("middle")) == 6
    if packing == "exact":
        assert_same_bits(together, alone, "left")
    else:
        assert_close(together, alone, "left")


def test_an_exact_job_is_bit_equal_alone_and_beside_others_in_any_order(tmp_path: Path) -> None:
    def exact() -> JobSpec:
        return spec_of("faulty", packing="exact", learning_rate=1e-2)

    alone = train(make_worker(tiny_llama(), data_of([5, 3]), tmp_path / "alone"), [exact()])
    others = [spec_of("left"), spec_of("middle", packing="exact"), spec_of("right")]
    for number, specs in enumerate(([exact(), *others], [*others, exact()])):
        worker = make_worker(tiny_llama(), data_of([5, 3]), tmp_path / str(number))
        assert_same_bits(train(worker, specs), alone, "faulty")
    staged = [tmp_path / folder / "faulty" / "adapter_model.safetensors" for folder in ("alone", "0", "1")]
    assert len({path.read_bytes() for path in staged}) == 1


def test_two_runs_of_the_same_jobs_give_the_same_bytes(tmp_path: Path) -> None:
    runs = [
        train(make_worker(tiny_llama(), data_of([5, 3]), tmp_path / folder), [spec_of(name) for name in LENGTHS])
        for folder in ("first", "second")
    ]
    for name in LENGTHS:
        assert_same_bits(*runs, name)
        assert content(tmp_path / "first" / name) == content(tmp_path / "second" / name)


def test_a_job_that_raises_ends_alone_and_its_neighbours_numbers_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token outside the vocabulary raises in the middle of a pack, with neighbours half way through accumulating."""
    monkeypatch.setattr(admission, "row_problems", lambda *_: ())  # it would not get so far
    data = data_of()
    broken = make_data(9, LENGTHS["faulty"], vocabulary=10**6)
    trained = train(
        make_worker(tiny_llama(torch.float64), data | {"faulty": broken}, tmp_path / "together"),
        [
            spec_of("left", torch.float64),
            spec_of("faulty", torch.float64, max_steps=1),
            spec_of("right", torch.float64),
        ],
    )
    assert (trained.end("faulty").state, trained.end("faulty").reason) == (JobState.FAILED, "error")
    assert "index out of range" in trained.end("faulty").message
    for name in ("left", "right"):
        assert trained.end(name).state is JobState.SUCCEEDED
        alone = train(make_worker(tiny_llama(torch.float64), data, tmp_path / name), [spec_of(name, torch.float64)])
        assert_close(trained, alone, name)
        assert trained.runs[name].tokens == alone.runs[name].tokens


def test_a_job_that_raises_late_makes_its_neighbours_count_nothing_twice(tmp_path: Path) -> None:
    """The bad row comes when the neighbour has done one of two micro-batches of its step, which starts over."""
    data = data_of()
    worker = make_worker(tiny_llama(torch.float64), data, tmp_path / "together")
    together = admit(worker, [spec_of("left", torch.float64), spec_of("right", torch.float64)])
    together.reports += worker.step()
    assert together.runs["left"]._batch is not None
    broken = worker.runs()["right"].data.train
    broken._ids[:] = 10**6
    while not worker.is_idle:
        together.reports += worker.step()
    assert together.end("right").state is JobState.FAILED
    alone = train(make_worker(tiny_llama(torch.float64), data, tmp_path / "alone"), [spec_of("left", torch.float64)])
    assert_close(together, alone, "left")
    assert together.runs["left"].tokens == alone.runs["left"].tokens
    assert [step.tokens for step in together.steps("left")] == [step.tokens for step in alone.steps("left")]
