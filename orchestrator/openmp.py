"""How long OpenMP threads spin before they sleep. Read when the library is loaded, so set before torch is imported.

By default GNU's OpenMP spins for milliseconds at every barrier. A training step has thousands of barriers; once another
process takes one of the cores, the threads spend their time waiting for one that is not running. Measured with 8 jobs ×
2 rows of SmolLM2-135M on two cores, tokens/s quiet and beside a busy process: default 300 and 18, 10,000 turns 298 and
90, no spinning at all (`OMP_WAIT_POLICY=PASSIVE`) 191 and 141.
"""

from __future__ import annotations

import os

ENVIRONMENT = {"GOMP_SPINCOUNT": "10000"}
"""For every process that trains on a CPU."""


def spin_briefly() -> None:
    """Apply to this process, unless its user has chosen already."""
    if "OMP_WAIT_POLICY" not in os.environ:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
