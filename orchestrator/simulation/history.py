"""What a simulation starts from and what it records."""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator.simulation.workload import SimJob

_GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Of the cluster."""

    num_devices: int
    memory_bytes: int = 80 * _GIB
    turn_seconds: float = 10.0
    """Between two decisions, where something happened."""
    start_seconds: float = 60.0
    """Until a new worker has loaded its base."""
    stop_seconds: float = 10.0
    """Until a job that makes room is saved and gone."""
    save_seconds: float = 300.0
    """Between checkpoints: what a lost device costs at most."""
    lost_after_seconds: float | None = None
    """Mean time until a device is lost, as spot machines are; `None`: never."""
    away_seconds: float = 600.0
    """Until another one is there in its place."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What queues had and what was due to them, from the beginning to now."""

    seconds: float
    served: dict[str, float]
    fair: dict[str, float]
    wanting: frozenset[str]


@dataclass(kw_only=True)
class History:
    """What happened."""

    jobs: list[SimJob]
    makespan: float = 0.0
    busy_device_seconds: float = 0.0
    """Of devices with at least one job."""
    device_seconds: float = 0.0
    """Of devices that were there."""
    num_preemptions: int = 0
    num_lost: int = 0
    num_failures: int = 0
    num_decisions: int = 0
    samples: list[Sample] = field(default_factory=list)
    busy_over_time: list[tuple[float, float, int]] = field(default_factory=list)
    """(seconds, share of devices with jobs, jobs that wait)."""
