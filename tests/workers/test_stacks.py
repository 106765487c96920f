"""Adapters that lie side by side: slots are reused clean, padding of ranks stays zero, and a job can move out."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.models import admit, make_data, make_spec, make_worker, tiny_llama, train
from workers.capture import ByModule, held

CPU = torch.device("cpu")


def test_jobs_of_one_layout_share_a_stack_and_a_freed_slot_is_taken_again_clean(tmp_path: Path) -> None:
    data = {f"job-{number}": make_data(number, [5, 4, 7]) for number in range(10)}
    worker = make_worker(tiny_llama(), data, tmp_path, grouped=True)
    specs = [make_spec(name, lora={"r": 4}, training={"max_steps": 2}) for name in data]
    runs = admit(worker, specs[:9]).runs
    slots = [run.adapter.factors.slot for run in runs.values()]
    assert [slot.index for slot in slots if slot is not None] == [*range(8), 0]
    assert len({id(slot.stack) for slot in slots if slot is not None}) == 2
    second = runs["job-1"].adapter
    second.grads.fill_(1.0)
    worker.release("job-1")
    again = admit(worker, specs[9:]).runs["job-9"].adapter
    assert again.values.data_ptr() == second.values.data_ptr()
    assert not again.grads.any()


def test_ranks_are_padded_with_zeros_that_no_step_changes(tmp_path: Path) -> None:
    """Rank 3 in room for 4, under weight decay: what is not the job's own stays zero."""
    worker = make_worker(tiny_llama(), {"job": make_data(1, [9, 5, 12, 7])}, tmp_path, grouped=True)
    spec = make_spec("job", lora={"r": 3, "init_lora_weights": False}, training={"max_steps": 6, "weight_decay": 0.5})
    trained = train(worker, [spec])
    adapter = trained.runs["job"].adapter
    assert adapter.num_parameters < adapter.layout.size
    own = torch.zeros_like(adapter.values, dtype=torch.bool)
    shift = adapter.values.storage_offset()
    for factors in adapter.factors.values():
        for view in (factors.a_RI, factors.b_OR):
            own.as_strided(view.shape, view.stride(), view.storage_offset() - shift).fill_(True)
    assert own.sum() == adapter.num_parameters
    assert not adapter.values.detach()[~own].any()
    assert adapter.values.detach()[own].all()


def test_a_stacked_job_is_captured_by_module_wherever_it_lies(tmp_path: Path) -> None:
    data = {name: make_data(1, [5, 4, 7]) for name in ("first", "second")}
    worker = make_worker(tiny_llama(), data, tmp_path, grouped=True)
    run = admit(worker, [make_spec(name) for name in data]).runs["second"]
    moments = torch.arange(run.adapter.layout.size, dtype=torch.float32)
    for name, pair in ByModule(run.adapter, moments).items():
        factors = run.adapter.factors[name]
        assert pair.a_RI.shape == factors.a_RI.shape
        assert float(pair.a_RI[0, 0]) == run.adapter.layout.a_offsets[name]
        assert float(pair.b_OR[0, 0]) == run.adapter.layout.b_offsets[name]
    for name, pair in held(run.adapter, run.adapter.values).items():
        assert torch.equal(pair.a_RI, run.adapter.factors[name].a_RI)
        assert torch.equal(pair.b_OR, run.adapter.factors[name].b_OR)
        # Not the whole stack, which is mostly others'.
        assert pair.a_RI.untyped_storage().nbytes() == run.adapter.values.nbytes
        assert not pair.a_RI.requires_grad


def test_a_pack_writes_no_gradient_of_a_slot_that_is_not_in_it(tmp_path: Path) -> None:
    """Not even a zero: another lane may be adding to that slot, and one of the two sums would be lost."""
    names = ("first", "absent", "third", "fourth", "gone")
    data = {name: make_data(number, [5, 4, 7]) for number, name in enumerate(names)}
    worker = make_worker(tiny_llama(), data, tmp_path, grouped=True, num_lanes=1)
    runs = admit(worker, [make_spec(name, training={"gradient_accumulation_steps": 2}) for name in names]).runs
    assert len({id(slot.stack) for run in runs.values() if (slot := run.adapter.factors.slot)}) == 1
    present = [("third", "fourth"), ("first", "third", "fourth")]
    for names_in_pack in present:
        absent = [run.adapter.grads for name, run in runs.items() if name not in names_in_pack]
        for grads in absent:
            # Adding a zero of either sign to it would show: -0.0 + 0.0 = 0.0.
            grads.fill_(-0.0)
        worker._rounds.run([member for member in worker._members() if member.run.job_id in names_in_pack])
        assert all(torch.signbit(grads).all() for grads in absent)
        assert all(runs[name].adapter.grads.any() or runs[name].step for name in names_in_pack)
