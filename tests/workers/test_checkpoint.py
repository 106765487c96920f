"""What is saved comes back to the bit, and is nobody else's."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from jobs.artifacts import file_sha256
from jobs.checkpoints import CheckpointError, CheckpointMismatchError, DataFingerprints, DiskFullError, folder_name
from jobs.records import CheckpointRecord
from tests.models import make_spec, tiny_gpt2, tiny_llama
from tests.workers.snapshots import IDENTITY, SURROUNDINGS, assert_same, make_snapshot, make_standing
from workers.checkpoint import load, peft_config, save, verify
from workers.snapshot import JobSnapshot, Pair
from workers.structure import read_structure
from workers.targets import resolve

FILES = {
    "adapter_config.json",
    "adapter_model.safetensors",
    "manifest.json",
    "optimizer.safetensors",
    "state.json",
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("half_done", [False, True], ids=["between steps", "half done"])
@pytest.mark.parametrize("slots", [(), ("momentum_buffer",), ("exp_avg", "exp_avg_sq")], ids=str)
def test_everything_comes_back_to_the_bit(
    tmp_path: Path, dtype: torch.dtype, half_done: bool, slots: tuple[str, ...]
) -> None:
    snapshot = make_snapshot(dtype=dtype, half_done=half_done, slots=slots)
    record = save(snapshot, tmp_path / "checkpoints" / "job-1")
    loaded = load(tmp_path / "checkpoints" / "job-1", record, IDENTITY)
    assert_same(loaded, snapshot)


def test_odd_numbers_come_back_to_the_bit(tmp_path: Path) -> None:
    odd = torch.tensor([[float("nan"), -0.0, float("inf")], [1e-45, -float("inf"), 3.4e38]])
    snapshot = make_snapshot(slots=())
    factors = {"m": Pair(a_RI=odd, b_OR=odd.T.contiguous())}
    snapshot = replace(snapshot, factors=factors)
    assert_same(load(tmp_path, save(snapshot, tmp_path), IDENTITY), snapshot)


@pytest.mark.parametrize("half_done", [False, True])
def test_the_record_says_what_stands_there(tmp_path: Path, half_done: bool) -> None:
    record = save(make_snapshot(half_done=half_done), tmp_path)
    folder = tmp_path / record.folder
    assert record == CheckpointRecord(
        job_id="job-1",
        attempt=3,
        step=7,
        micro_batch=2 if half_done else 0,
        folder="step-000007.02-a3" if half_done else "step-000007.00-a3",
        manifest_sha256=file_sha256(folder / "manifest.json"),
        size_bytes=sum(file.stat().st_size for file in folder.iterdir()),
    )
    assert {file.name for file in folder.iterdir()} == FILES | ({"gradients.safetensors"} if half_done else set())
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["files"] == {
        file.name: {"sha256": file_sha256(file), "size_bytes": file.stat().st_size}
        for file in folder.iterdir()
        if file.name != "manifest.json"
    }
    assert [path.name for path in tmp_path.iterdir()] == [record.folder]


def test_equal_snapshots_are_equal_bytes(tmp_path: Path) -> None:
    first, second = (save(make_snapshot(half_done=True), tmp_path / name) for name in "ab")
    assert first == second


def test_what_is_loaded_shares_nothing_with_the_next_load(tmp_path: Path) -> None:
    record = save(make_snapshot(), tmp_path)
    for pair in load(tmp_path, record, IDENTITY).factors.values():
        pair.a_RI.fill_(3.0)
    assert_same(load(tmp_path, record, IDENTITY), make_snapshot())


def test_an_attempt_does_not_publish_one_step_twice(tmp_path: Path) -> None:
    record = save(make_snapshot(), tmp_path)
    with pytest.raises(FileExistsError, match="published already"):
        save(make_snapshot(seed=5), tmp_path)
    assert_same(load(tmp_path, record, IDENTITY), make_snapshot())
    assert [path.name for path in tmp_path.iterdir()] == [record.folder]


def test_later_attempts_go_on_from_it(tmp_path: Path) -> None:
    record = save(make_snapshot(), tmp_path)
    assert load(tmp_path, record, replace(IDENTITY, attempt=9)).identity.attempt == 3


@pytest.mark.parametrize(
    "change",
    [
        {"attempt": 4},
        {"step": 8},
        {"micro_batch": 1},
        {"job_id": "job-2"},
        {"manifest_sha256": "0" * 64},
    ],
    ids=str,
)
def test_a_record_that_says_otherwise_is_not_believed(tmp_path: Path, change: dict[str, Any]) -> None:
    record = replace(save(make_snapshot(), tmp_path), **change)
    with pytest.raises(CheckpointError, match=r"manifest\.json has") as caught:
        verify(tmp_path, record)
    assert caught.value.file == "manifest.json"
    assert not isinstance(caught.value, CheckpointMismatchError)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"job_id": "job-2"}, "job: job-1 there, job-2 here"),
        ({"spec_sha256": "6" * 64}, "sha256 of the spec"),
        ({"base": replace(IDENTITY.base, dtype="bfloat16")}, "bfloat16"),
        ({"base_fingerprint": "c" * 64}, "base's weights"),
        ({"data": DataFingerprints(train="e" * 64, evaluation=None)}, "training rows"),
        ({"data": DataFingerprints(train="d" * 64, evaluation="f" * 64)}, "evaluation rows"),
    ],
)
def test_another_run_does_not_go_on_from_it(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    record = save(make_snapshot(), tmp_path)
    with pytest.raises(CheckpointMismatchError, match=told):
        load(tmp_path, record, replace(IDENTITY, **change))
    assert (tmp_path / record.folder).is_dir()


@pytest.mark.parametrize("name", ["../elsewhere", "/etc", "", ".", "quarantine", "step-1/../..", ".tmp-step-1"])
def test_a_folder_s_name_leads_nowhere_else(name: str) -> None:
    with pytest.raises(ValueError, match="not a name"):
        CheckpointRecord(
            job_id="j", attempt=1, step=1, micro_batch=0, folder=name, manifest_sha256="0" * 64, size_bytes=1
        )


def test_names_sort_by_step_within_an_attempt() -> None:
    names = [folder_name(step=step, micro_batch=part, attempt=1) for step in (9, 10, 99999) for part in (0, 1, 12)]
    assert names == sorted(names)


@pytest.mark.parametrize(
    "error",
    [
        CheckpointError("/x/step-1", "is missing", file="state.json"),
        CheckpointError("/x/step-1", "is a symbolic link"),
        CheckpointMismatchError("/x/step-1", "is of another run", file="manifest.json"),
        DiskFullError("/x/step-1", needed_bytes=5, free_bytes=None),
        DiskFullError("/x/step-1", needed_bytes=None, free_bytes=7),
    ],
    ids=repr,
)
def test_errors_travel_between_processes(error: Exception) -> None:
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert vars(back) == vars(error)


def test_surroundings_that_differ_are_told() -> None:
    assert SURROUNDINGS.differences(SURROUNDINGS) == ()
    other = replace(SURROUNDINGS, versions={"torch": "2.14.0"}, device_type="cuda", num_threads=8)
    assert SURROUNDINGS.differences(other) == (
        "device type: cpu then, cuda now",
        "threads: 1 then, 8 now",
        "loraloom: 0.1.0 then, absent now",
        "torch: 2.13.0 then, 2.14.0 now",
    )


@pytest.mark.parametrize(
    ("build", "lora"),
    [
        (tiny_llama, {"r": 4, "lora_alpha": 8}),
        (tiny_llama, {"r": 4, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 5, "q_proj": 3}}),
        (tiny_llama, {"r": 8, "use_rslora": True, "rank_pattern": {"k_proj": 3}, "alpha_pattern": {"up_proj": 7}}),
        (tiny_gpt2, {"r": 3, "lora_alpha": 4, "alpha_pattern": {"attn.c_proj": 9}}),
    ],
    ids=["plain", "patterns", "rslora with patterns", "gpt2"],
)
def test_peft_opens_it_and_adds_the_same(tmp_path: Path, build: Any, lora: dict[str, Any]) -> None:
    """B is kept as it is, unlike in an artifact, so the scales must be stated right."""
    spec = make_spec("one", lora=lora)
    structure = read_structure(build())
    shapes = structure.shapes
    targets = resolve(spec.lora, structure)
    draw = torch.Generator().manual_seed(2)
    factors = {
        name: Pair(
            a_RI=torch.randn(target.r, target.in_features, generator=draw),
            b_OR=torch.randn(target.out_features, target.r, generator=draw),
        )
        for name, target in targets.items()
    }
    snapshot = JobSnapshot(
        identity=IDENTITY,
        surroundings=SURROUNDINGS,
        peft_config=peft_config(spec, IDENTITY.base, targets, shapes),
        factors=factors,
        moments={},
        gradients=None,
        standing=make_standing(),
    )
    record = save(snapshot, tmp_path)
    opened = PeftModel.from_pretrained(build(), str(tmp_path / record.folder)).base_model.model
    for name, pair in factors.items():
        ours_OI = targets[name].scale * pair.b_OR @ pair.a_RI
        theirs = opened.get_submodule(name).get_delta_weight("default")
        torch.testing.assert_close(theirs.T if shapes[name].is_conv1d else theirs, ours_OI, rtol=1e-5, atol=1e-5)
