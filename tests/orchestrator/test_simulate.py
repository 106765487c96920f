"""The simulated cluster: small ones, whose figures must come out as the policies promise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.simulate import main
from orchestrator.simulation.compare import PACKED, compare
from orchestrator.simulation.figures import jain, largest_shortfall
from orchestrator.simulation.history import (
    Conditions,
    Sample,
)
from orchestrator.simulation.speed import BASES, PACK_ROWS
from orchestrator.simulation.workload import QUEUES, Workload, bound_seconds, draw
from orchestrator.simulation.world import (
    World,
)

SMALL = Conditions(num_devices=4)


def test_speed_is_the_published_point_and_no_gain_beyond_it() -> None:
    base = BASES[0]
    assert base.pack_seconds(8) == pytest.approx(1.10 * base.pack_seconds(1))
    assert base.pack_seconds(16) == pytest.approx(2 * base.pack_seconds(8))
    assert 1 / base.row_seconds == pytest.approx(7.27 / base.pack_seconds(1), rel=1e-3)


def test_jobs_are_the_same_for_the_same_seed() -> None:
    first, again, other = (
        [vars(job) for job in draw(Workload(num_jobs=50, load=0.5, seed=seed), 4)] for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_two_runs_are_equal_to_the_last_figure() -> None:
    conditions = Conditions(num_devices=4, lost_after_seconds=20_000.0, seed=3)
    workload = Workload(num_jobs=120, micro_batch=None, load=0.9, seed=3)
    first, again = (compare("x", workload, conditions).to_json() for _ in range(2))
    assert first == again


def test_every_job_ends_once_through_failures_losses_and_preemptions() -> None:
    workload = Workload(num_jobs=200, micro_batch=1, load=1.2, failures=0.3, high_priority=0.3, seed=5)
    jobs = draw(workload, 4)
    ended = {job.id: job.alone_seconds for job in jobs}
    world = World(jobs, Conditions(num_devices=4, lost_after_seconds=3000.0), PACKED, QUEUES)
    history = world.run()
    assert history.num_lost
    assert history.num_failures
    assert history.num_preemptions
    for job in jobs:
        assert job.ended is not None
        # A loss costs time, and no neighbour makes a job faster than it is alone.
        assert job.ended - job.arrival >= ended[job.id]
        assert job.rows_left == 0.0


@pytest.mark.parametrize("micro_batch", [1, 4])
def test_all_at_time_0_ends_near_the_bound(micro_batch: int) -> None:
    workload = Workload(num_jobs=400, micro_batch=micro_batch, failures=0.0)
    result = compare("x", workload, SMALL, with_baseline=False)
    assert result.bound_seconds is not None
    assert 1.0 <= result.packed.makespan_seconds / result.bound_seconds <= 1.10


def test_a_full_device_goes_no_faster_with_neighbours_and_small_jobs_do() -> None:
    gains = {}
    for rows in (1, 16):
        result = compare("x", Workload(num_jobs=100, micro_batch=rows, failures=0.0), SMALL)
        assert result.alone is not None
        gains[rows] = result.alone.makespan_seconds / result.packed.makespan_seconds
    # First in, first out, is up to a tenth worse here for not knowing which jobs are long.
    assert 0.95 < gains[16] < 1.2
    assert 4.0 < gains[1] < PACK_ROWS / 1.1


def test_no_queue_falls_below_its_share_and_nobody_starves_where_one_sends_only_high_priorities() -> None:
    # One base: with few devices a queue whose jobs all have another base waits until a worker has emptied.
    workload = Workload(num_jobs=1500, micro_batch=1, load=1.8, all_high_in="students", bases=BASES[:1])
    result = compare("x", workload, SMALL, with_baseline=False)
    assert result.packed.largest_shortfall is not None
    assert result.packed.largest_shortfall <= 0.05
    # The last job of the line waits as long as the line is; none waits longer than the cluster works.
    assert result.packed.longest_wait_low_priority_seconds < result.packed.makespan_seconds


def test_the_bound_is_the_work_or_the_longest_job() -> None:
    jobs = draw(Workload(num_jobs=3), 1)
    assert bound_seconds(jobs, 1) == pytest.approx(
        max(sum(job.work_seconds for job in jobs), max(job.alone_seconds for job in jobs))
    )
    assert bound_seconds(jobs, 1000) == max(job.alone_seconds for job in jobs)


def test_jains_index_and_shortfall_are_what_they_are_called() -> None:
    assert jain([1.0, 1.0]) == 1.0
    assert jain([1.0, 0.0]) == 0.5

    def sample(seconds: float, had: float, wanting: bool = True) -> Sample:
        return Sample(
            seconds=seconds,
            served={"a": had},
            fair={"a": seconds},
            wanting=frozenset({"a"}) if wanting else frozenset(),
        )

    assert largest_shortfall([sample(0, 0), sample(10, 10), sample(20, 15)], 10.0) == 0.5
    assert largest_shortfall([sample(0, 0), sample(10, 10), sample(20, 15)], 20.0) == 0.25
    assert largest_shortfall([sample(0, 0), sample(10, 0, wanting=False), sample(15, 5)], 10.0) is None


def test_the_command_prints_json_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "plots" / "simulate.png"
    main(["--jobs", "40", "--devices", "3", "--json", "--plot", str(picture)])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["micro_batch"] for line in lines] == [None, 1, 4, 16, None]
    assert lines[0]["makespan_over_bound"] >= 1.0
    assert lines[1]["one_job_per_device"]["jobs"] == 40
    assert picture.read_bytes().startswith(b"\x89PNG")
