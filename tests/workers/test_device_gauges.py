"""What a device reaches, and that finding it out touches nothing that jobs draw from."""

from __future__ import annotations

import pytest
import torch

from workers import device_gauges
from workers.device_gauges import DeviceGauges, matrix_flops_per_second


def test_the_matrix_rate_is_positive_and_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    assert matrix_flops_per_second.__wrapped__(torch.device("cpu"), torch.float32) > 1e6
    assert torch.equal(torch.get_rng_state(), before)


def test_a_dtype_that_the_processor_has_no_units_for_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    rates = {torch.float32: 40e9, torch.bfloat16: 1e9, torch.float16: 30e9}
    monkeypatch.setattr(device_gauges, "matrix_flops_per_second", lambda _device, dtype: rates[dtype])
    note = "bfloat16 is 40 times as slow as float32 on this processor: set model.dtype to float32"
    assert device_gauges.dtype_note(cpu, torch.bfloat16) == note
    for dtype in (torch.float16, torch.float32, torch.float64):
        assert device_gauges.dtype_note(cpu, dtype) is None
    assert device_gauges.dtype_note(torch.device("cuda"), torch.bfloat16) is None


def test_a_cpu_has_nothing_to_read() -> None:
    gauges = DeviceGauges(torch.device("cpu"))
    assert (gauges.memory_bytes, gauges.utilization) == (None, None)


@pytest.mark.gpu
def test_a_gpu_tells_its_memory_and_a_rate_that_no_cpu_has() -> None:
    device = torch.device("cuda")
    assert matrix_flops_per_second(device, torch.bfloat16) > 1e12
    held = torch.zeros(2**20, device=device)
    assert (DeviceGauges(device).memory_bytes or 0) >= held.nbytes
