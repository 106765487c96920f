"""The figures of a worker that monitoring asks for."""

from __future__ import annotations

from dataclasses import asdict

import torch

from jobs.records import WorkerCounters
from workers.device_gauges import DeviceGauges, matrix_flops_per_second
from workers.pack_accounts import Totals
from workers.pack_times import BUCKETS_SECONDS, PackTimes


class Counters:
    """Of one device."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._gauges = DeviceGauges(device)
        self._matrix_flops_per_second = matrix_flops_per_second(device, dtype)

    def read(self, totals: Totals, times: PackTimes, *, num_failed_saves: int) -> WorkerCounters:
        """As they are now."""
        sums = asdict(totals)
        del sums["tokens"]
        return WorkerCounters(
            **sums,
            pack_seconds=times.seconds,
            pack_counts=tuple(times.counts),
            pack_bounds=BUCKETS_SECONDS,
            checkpoint_failures=num_failed_saves,
            matrix_flops_per_second=self._matrix_flops_per_second,
            memory_bytes=self._gauges.memory_bytes,
            device_utilization=self._gauges.utilization,
        )
