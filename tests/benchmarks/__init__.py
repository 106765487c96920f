"""Benchmarks: never part of the tests, since a timing proves nothing on a shared machine. `make bench`."""

import os

from orchestrator.openmp import spin_briefly

# Both are read when torch is loaded, so they stand here, for all commands of this package and their processes.
# A worker that `loraloom run` starts spins briefly, too.
spin_briefly()
# torch's profiler otherwise writes a line on stderr whenever it starts and stops.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
