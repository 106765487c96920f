"""What the owner of a worker decides about it; known without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from jobs.file_rules import FileRules
from workers.memory import MAX_TOKEN_BUDGET


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """What the owner of a worker decides. No default depends on the machine: `capacity_bytes` is measured if `None`."""

    staging_dir: Path
    """Finished artifacts are written below it, for the scheduler to publish."""
    checkpoints_dir: Path | None = None
    """A folder a job is made below it; `None` saves nothing."""
    storage_uri: str | None = None
    """Root of the store that all machines reach (`file`, `s3`, `gs`; `memory` in one process), where checkpoints and
    artifacts are kept: the two folders above are scratch then. `None`: those folders are all there is."""
    token_budget: int = MAX_TOKEN_BUDGET
    """Tokens that a pack of several jobs may hold."""
    capacity_bytes: int | None = None
    """Memory the worker may use, base included; measured once the base is loaded if `None`."""
    grouped: bool | None = None
    """Adapters of one layout side by side in stacks, for grouped products; on a GPU, and not on a CPU, if `None`."""
    num_measured_packs: int | None = None
    """First packs whose peak memory is measured, at the cost of some tenths of a second each; 0 measures none ever.
    Where `None`, 8 on a GPU, whose allocator gives the same peaks in every run; none on a CPU: what of a process is
    resident varies, and would have a part in which jobs are taken in together."""
    file_rules: FileRules = field(default_factory=FileRules)
    """Under which the base is read, and what jobs name."""
    num_lanes: int | None = None
    """Packs that run at one time; on a CPU one for each of torch's threads if `None`, on a GPU one."""
