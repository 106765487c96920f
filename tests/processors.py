"""Run the numeric tests as other processors would: `python -m tests.processors`.

torch chooses its kernels by what the processor can do, and so do the libraries of matrix products below it; each choice
rounds sums in another order. A test that passes with one of them alone tests luck.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

NUMERIC = ("tests/parity", "tests/workers", "tests/faults/test_faults.py", "tests/dashboards/test_prometheus.py")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What stands in for a processor."""

    aten: str
    """ATEN_CPU_CAPABILITY."""
    onednn: str
    """ONEDNN_MAX_CPU_ISA."""
    mkl: str
    """MKL_ENABLE_INSTRUCTIONS."""


SETTINGS = (
    Setting(aten="default", onednn="SSE41", mkl="SSE4_2"),
    Setting(aten="avx2", onednn="AVX2", mkl="AVX2"),
    Setting(aten="avx512", onednn="DEFAULT", mkl="AVX512"),
)


def available(setting: Setting) -> bool:
    """Whether this processor can do what the setting asks for."""
    order = [one.aten for one in SETTINGS]
    best = _best()
    return order.index(setting.aten) <= (order.index(best) if best in order else 0)


def _best() -> str:
    """What torch finds in this processor by itself."""
    environment = {name: value for name, value in os.environ.items() if name != "ATEN_CPU_CAPABILITY"}
    code = "import torch; print(torch.backends.cpu.get_cpu_capability().lower())"
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()


def main(arguments: Sequence[str] = ()) -> int:
    """Run pytest once for each setting that this processor has; 1 if any run failed."""
    failed = []
    for setting in SETTINGS:
        if not available(setting):
            print(f"{setting.aten}: not run, this processor does not have it", flush=True)
            continue
        print(f"{setting.aten}:", flush=True)
        environment = {
            "ATEN_CPU_CAPABILITY": setting.aten,
            "ONEDNN_MAX_CPU_ISA": setting.onednn,
            "MKL_ENABLE_INSTRUCTIONS": setting.mkl,
        }
        command = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadgroup", *NUMERIC, *arguments]
        if subprocess.run(command, env=os.environ | environment, check=False).returncode:
            failed.append(setting.aten)
    print(f"failed: {', '.join(failed)}" if failed else "passed under every setting that this processor has")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
