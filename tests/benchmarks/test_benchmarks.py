"""The pieces of the benchmarks work together, on a tiny base: no timing is asserted, since none would mean anything."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.benchmarks import spread, throughput
from tests.benchmarks.child import Child, bare
from tests.benchmarks.contenders import NAMES, RATIOS
from tests.benchmarks.peaks import engine_peak
from tests.benchmarks.peft_jobs import PeftSequential, collate
from tests.benchmarks.peft_processes import PeftProcesses, at_once
from tests.benchmarks.profile import PARTS, part_of
from tests.benchmarks.rows import Feed, job_data, num_tokens
from tests.benchmarks.setting import Inputs, Setting, Tokens, parse_rows
from tests.threads import one_thread
from tests.tiny_base import write_rows, write_tiny_base

__all__ = ["one_thread"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    folder = tmp_path_factory.mktemp("benchmarks")
    tasks = tuple(write_rows(folder / f"{name}.jsonl", count) for name, count in (("one", 24), ("two", 120)))
    return Inputs(model=write_tiny_base(folder / "base"), tasks=tasks)


def test_a_line_of_the_benchmark(inputs: Inputs, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    picture = tmp_path / "new" / "ratios.png"
    options = ["--rows", "2x1", "--repeats", "1", "--json", "--skip-processes", "--skip-memory", "--plot", str(picture)]
    assert throughput.main(options, inputs) == 0
    line = json.loads(capsys.readouterr().out)
    assert (line["jobs"], line["batch_size"], line["dtype"]) == (2, 1, "fp32")
    assert line["mean_row_tokens"] > line["mean_row_labels"] > 0
    for name in NAMES:
        assert {f"{name}_tokens_per_second", f"{name}_peak_bytes"} <= line.keys()
    for ratio, (ours, theirs) in RATIOS.items():
        rates = line[f"{ours}_tokens_per_second"], line[f"{theirs}_tokens_per_second"]
        # With one repeat a ratio of medians is a median of ratios.
        assert line[ratio] == (None if None in rates else pytest.approx(rates[0] / rates[1]))
    assert line["packed_over_peft"] > 0
    assert line["peft_processes_at_once"] is line["packed_over_peft_processes"] is None
    assert line["share_of_time"].keys() == set(PARTS)
    assert sum(line["share_of_time"].values()) == pytest.approx(1.0, abs=1e-3)
    assert line["share_of_time"]["loss"] > 0
    assert line["share_of_time"]["optimizer"] > 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "packed/floor" in throughput.describe(line)


def test_the_same_rows_over_many_adapters_and_few(inputs: Inputs):
    result = spread.measure(inputs, "fp32", 1, num_rows=4, many=4, few=2)
    assert result["many_over_few_seconds"] == pytest.approx(
        result["few_tokens_per_second"] / result["many_tokens_per_second"]
    )


def test_pinned_rows_depend_on_their_number_alone(inputs: Inputs):
    def rows(num_jobs: int, batch_size: int) -> list[tuple[int, ...]]:
        setting = Setting(inputs=inputs, num_jobs=num_jobs, batch_size=batch_size, dtype="fp32", pinned=True)
        feed = Feed(setting)
        first, second = feed.next(), feed.next()
        assert num_tokens(first) == num_tokens(second)
        return sorted(tuple(row.ids.tolist()) for job_rows in first for row in job_rows)

    assert rows(6, 1) == rows(2, 3) == rows(1, 6)


def test_jobs_take_turns_over_the_tasks(inputs: Inputs):
    data = job_data(Setting(inputs=inputs, num_jobs=3, batch_size=1, dtype="fp32"))
    assert [len(one.train) for one in data.values()] == [24, 120, 24]


def test_batches_are_padded_to_their_longest_row():
    rows = [
        Tokens(np.array([5, 6, 7]), np.array([False, False, True])),
        Tokens(np.array([8, 9]), np.array([False, True])),
    ]
    ids, mask, labels = collate(rows)
    assert ids.tolist() == [[5, 6, 7], [8, 9, 0]]
    assert mask.tolist() == [[1, 1, 1], [1, 1, 0]]
    assert labels.tolist() == [[-100, -100, 7], [-100, 9, -100]]


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from Linux's /proc")
@pytest.mark.slow
def test_processes_answer_and_tell_their_peak(inputs: Inputs):
    setting = Setting(inputs=inputs, num_jobs=2, batch_size=1, dtype="fp32")
    child = Child(PeftSequential, setting, num_threads=1)
    try:
        child.wait_ready()
        child.ask_step(bare(Feed(setting).next()))
        assert child.answer() > 0
    finally:
        child.close()
    peak = engine_peak("packed", setting)
    assert peak.peak_bytes >= peak.resident_bytes > 0


@pytest.mark.slow
def test_more_jobs_than_processes_run_in_waves(inputs: Inputs):
    setting = Setting(inputs=inputs, num_jobs=3, batch_size=1, dtype="fp32")
    side_by_side = PeftProcesses(setting, 2)
    try:
        assert side_by_side.num_waves == 2
        feed = Feed(setting)
        assert side_by_side.step(feed.next()) > 0
        assert side_by_side.step(feed.next()) > 0
    finally:
        side_by_side.close()


def test_as_many_processes_as_fit_80_percent_of_memory():
    assert at_once(16, 1000, empty_bytes=10_000, left_bytes=9_000) == 8
    assert at_once(16, 1000, empty_bytes=10_000, left_bytes=7_500) == 7
    assert at_once(4, 1000, empty_bytes=10_000, left_bytes=9_000) == 4
    assert at_once(4, 1000, empty_bytes=500, left_bytes=500) == 1


@pytest.mark.parametrize(
    ("name", "shapes", "part"),
    [
        ("aten::mm", [[480, 576], [576, 1536]], "base_products"),
        ("aten::addmm", [[1536], [480, 576], [576, 1536], [], []], "base_products"),
        ("aten::addmm_", [[30, 1536], [30, 8], [8, 1536], [], []], "adapter_products"),
        ("aten::mm", [[30, 576], [576, 8], [30, 8]], "adapter_products"),
        ("aten::bmm", [[16, 40, 576], [16, 576, 24]], "adapter_products"),
        ("aten::mm", [[64, 576], [576, 49152]], "loss"),
        ("aten::_log_softmax", [[64, 49152], [], []], "loss"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", [[1, 9, 30, 64]], "attention"),
        ("aten::_fused_adamw_", [], "optimizer"),
        ("aten::zero_", [[2_442_240]], "optimizer"),
        ("aten::mul", [[480, 1536], [480, 1536]], "rest"),
    ],
)
def test_operations_go_to_their_parts(name: str, shapes: list[list[int]], part: str):
    assert part_of(SimpleNamespace(name=name, input_shapes=shapes, cpu_parent=None), 49152) == part


def test_an_operation_without_a_part_takes_that_of_what_it_runs_inside():
    outer = SimpleNamespace(name="adapter_products", input_shapes=[], cpu_parent=None)
    inner = SimpleNamespace(name="aten::copy_", input_shapes=[[480, 8]], cpu_parent=outer)
    assert part_of(inner, 49152) == "adapter_products"


@pytest.mark.parametrize("text", ["16", "16x", "0x1", "a"])
def test_rows_that_are_none_are_refused(text: str):
    with pytest.raises(ValueError, match="JOBSxROWS"):
        parse_rows(text)
