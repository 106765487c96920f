"""A pack that ran out of memory is dead before its parts are tried, or they would have to fit beside it.

Memory is played: the outputs of decoder layers and of their linears are counted while they live, and a layer in the
middle of the base finds no room where they exceed a budget, as an allocator does: before it returns, its graph alive.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from jobs.errors import DataError
from jobs.records import JobState
from tests.models import Trained, make_data, make_spec, make_worker, norms_in_own_dtype, tiny_llama, train
from tests.workers.test_isolation import assert_close
from workers.caught_error import catch
from workers.lane import Lane
from workers.lora import MultiAdapterLinear

NAMES = ("one", "two", "three", "four")
LAYER = 1
"""Which of the three runs out of memory."""


class Memory:
    """What packs hold, and how much of it there may be."""

    def __init__(self) -> None:
        self.budget_bytes: float = float("inf")
        self.most_tokens: float = float("inf")
        self.most_bytes = 0
        self.failed_tokens: list[int] = []
        """Of the packs that found no room."""
        self.alive_at_start: list[int] = []
        """Tensors of earlier packs that are still there when one begins."""
        self._held: list[tuple[StorageWeakRef, int]] = []

    def limit(self, *, budget_bytes: float = float("inf"), most_tokens: float = float("inf")) -> None:
        self.budget_bytes, self.most_tokens = budget_bytes, most_tokens
        self.alive_at_start.clear()

    def hold(self, tensor: Tensor) -> None:
        self._held.append((StorageWeakRef(tensor.untyped_storage()), tensor.untyped_storage().nbytes()))

    def live_bytes(self) -> int:
        self._held = [one for one in self._held if not one[0].expired()]
        return sum({one[0].cdata: one[1] for one in self._held}.values())

    def need(self, num_tokens: int) -> None:
        self.most_bytes = max(self.most_bytes, self.live_bytes())
        if self.live_bytes() > self.budget_bytes or num_tokens > self.most_tokens:
            self.failed_tokens.append(num_tokens)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    def begin_pack(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        self.live_bytes()
        self.alive_at_start.append(len(self._held))


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Memory]:
    memory = Memory()
    layer_forward, linear_forward = LlamaDecoderLayer.forward, MultiAdapterLinear.forward

    def forward(self: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        memory.hold(hidden_states)
        activation = torch.tanh(hidden_states)
        memory.hold(activation)
        if self.self_attn.layer_idx == LAYER:
            memory.need(hidden_states.shape[1])
        return layer_forward(self, hidden_states, *args, **kwargs) + 0.0 * activation

    def linear(self: Any, x: Tensor) -> Tensor:
        output = linear_forward(self, x)
        memory.hold(output)
        return output

    def beginning(original: Any) -> Any:
        def begin(*args: Any, **kwargs: Any) -> Any:
            memory.begin_pack()
            return original(*args, **kwargs)

        return begin

    monkeypatch.setattr(LlamaDecoderLayer, "forward", forward)
    monkeypatch.setattr(MultiAdapterLinear, "forward", linear)
    monkeypatch.setattr(Lane, "train", beginning(Lane.train))
    monkeypatch.setattr(Lane, "evaluate", beginning(Lane.evaluate))
    return memory


def together(
    folder: Path, limit: Callable[[], None] = lambda: None, *, held_out: Sequence[int] = (), num_lanes: int = 1,
    **training: Any,
) -> Trained:  # fmt: skip
    """Four jobs that share their packs; the limit holds from when they are admitted."""
    data = {name: make_data(number, [9, 9, 9], held_out=held_out) for number, name in enumerate(NAMES)}
    worker = make_worker(tiny_llama(torch.float64), data, folder, num_lanes=num_lanes)
    blocks: dict[str, Any] = {"eval_datasets": [{"path": "injected.jsonl"}]} if held_out else {}
    training = {"max_steps": 2, "per_device_train_batch_size": 1, "per_device_eval_batch_size": 1} | training
    specs = [make_spec(name, dtype=torch.float64, training=training, **blocks) for name in NAMES]
    with norms_in_own_dtype():
        return train(worker, specs, before=lambda _: limit())


KINDS = pytest.mark.parametrize(
    "kind", [{}, {"gradient_checkpointing": True}, {"held_out": [12, 12]}], ids=["train", "checkpointing", "evaluate"]
)


@pytest.mark.parametrize("share", [0.75, 0.3], ids=["each half fits", "each quarter fits"])
@KINDS
def test_a_pack_of_which_each_part_fits_goes_through_for_what_failed_is_gone(
    kind: dict[str, Any], share: float, memory: Memory, tmp_path: Path
) -> None:
    roomy = together(tmp_path / "roomy", **kind)
    tight = together(tmp_path / "tight", lambda: memory.limit(budget_bytes=share * memory.most_bytes), **kind)
    assert memory.failed_tokens, "nothing ran out of memory"
    for name in NAMES:
        assert tight.end(name).state is JobState.SUCCEEDED, tight.end(name).message
        assert_close(tight, roomy, name)
    assert set(memory.alive_at_start) == {0}, "tensors of a failed pack were there when the next one began"


@KINDS
def test_what_failed_on_several_lanes_is_gone_when_it_is_tried_again(
    kind: dict[str, Any], memory: Memory, tmp_path: Path
) -> None:
    most_tokens = 13 if "held_out" in kind else 10
    tight = together(tmp_path, lambda: memory.limit(most_tokens=most_tokens), num_lanes=2, **kind)
    assert memory.failed_tokens
    assert all(tight.end(name).state is JobState.SUCCEEDED for name in NAMES)
    # What runs again runs alone, in the thread that calls.
    assert set(memory.alive_at_start) == {0}


def test_a_caught_error_holds_no_frame_of_any_error_in_its_chain() -> None:
    class Local:
        pass

    alive: list[weakref.ref[Local]] = []

    def broken(depth: int) -> None:
        local = Local()
        alive.append(weakref.ref(local))
        if depth == 0:
            raise torch.OutOfMemoryError("CUDA out of memory")
        try:
            broken(depth - 1)
        except Exception as error:
            kept.append(error)
            if depth == 1:
                raise ValueError("of the first") from error
            raise ExceptionGroup("several", [error, KeyError("another")])  # noqa: B904

    kept: list[Exception] = []
    caught = None
    try:
        broken(3)
    except Exception as error:
        kept.append(error)
        caught = catch(error)
    assert caught is not None
    assert len(alive) == 4
    # Even while somebody else has the errors themselves.
    assert [ref() for ref in alive] == [None] * 4
    assert len(kept) == 4
    assert "CUDA out of memory" in caught.report
    assert "in broken" in caught.report
    assert caught.own is None
    mine = catch(DataError("rows.jsonl: row 7: no text"))
    assert isinstance(mine.own, DataError)
    assert mine.summary.endswith("row 7: no text")
