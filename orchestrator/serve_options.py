"""What `loraloom serve` was asked."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

from orchestrator.clusters.worker_resources import WorkerResources
from orchestrator.interruption import GRACE_SECONDS
from orchestrator.retries import LEASE_SECONDS
from orchestrator.snapshot import Queue

_CACHES = ("HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE")


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """What `loraloom serve` was asked."""

    data_dir: Path
    host: str = "127.0.0.1"
    port: int = 8400
    names: tuple[str, ...] = ()
    """Further host names that it is reached by."""
    token_file: Path | None = None
    roots: tuple[Path, ...] | None = None
    """Folders that the data of jobs must lie in; anywhere where `None`."""
    storage_uri: str | None = None
    """Root of an object store for checkpoints and adapters; the data directory where `None`."""
    ray_address: str | None = None
    """Of a Ray that runs already; one of our own where `None`."""
    in_process: bool = False
    resources: WorkerResources = field(default_factory=WorkerResources)
    """What a worker takes of its node."""
    object_store_bytes: int | None = None
    """Of a Ray of our own; small where `None`."""
    token_budget: int | None = None
    queues: tuple[Queue, ...] = ()
    largest_device_bytes: int = 0
    """Of the devices that can ever join; 0 where the operator does not say."""
    prometheus_dir: Path | None = None
    """Folder that Prometheus watches for services; `prometheus` in the data directory where `None`."""
    grace_seconds: float = GRACE_SECONDS
    lease_seconds: float = LEASE_SECONDS

    def absolute(self) -> ServeOptions:
        """The same wherever this process works from now on; so are the caches, and what is imported later."""
        sys.path[:] = [os.path.abspath(entry) for entry in sys.path]
        for name in _CACHES:
            if name in os.environ:
                os.environ[name] = os.path.abspath(os.path.expanduser(os.environ[name]))
        return replace(
            self,
            data_dir=self.data_dir.absolute(),
            token_file=self.token_file and self.token_file.absolute(),
            roots=self.roots and tuple(root.absolute() for root in self.roots),
            prometheus_dir=self.prometheus_dir and self.prometheus_dir.absolute(),
        )
