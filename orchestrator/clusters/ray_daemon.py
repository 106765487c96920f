"""A Ray that outlives the service: a head node of its own, found again by whoever starts in the same directory.

`ray start --head --block` runs in a session of its own and ends all of Ray when a part of it dies; so one process tells
whether there is a Ray, and Ray is never half there. Ray is not imported here.

Ray kills a worker where a node runs out of memory; ours take shares of what was free, and together leave a tenth of
it. So Ray's own bound (`memory_fraction`) is set above what they can reach. It is there for what takes memory beside
us, and acts before the kernel would, which may take the service. A worker killed so is lost, its jobs not charged.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from jobs.errors import WorkerError
from orchestrator.clusters.processes import (
    Process,
    boot_id,
    find_process,
    is_running,
    kill_if_same,
    session_members,
    started_with,
)
from orchestrator.clusters.ray_environment import ENVIRONMENT, use_loopback, use_token
from workers.publishing import fsync

LOOPBACK = "127.0.0.1"
_MEMORY_FRACTION = 0.97
"""Of the node's memory in use, at which Ray kills a worker."""
_RECORD = "ray.json"
_START_SECONDS = 120.0
_CONNECT_SECONDS = 2.0
_LOOK_SECONDS = 0.1
_END_SECONDS = 10.0
_LONGEST_FOLDER = 38
"""Characters. Ray's sockets stand up to 65 deeper, and the kernel takes 107."""


@dataclass(frozen=True, kw_only=True)
class DaemonOptions:
    """What a Ray of our own is started with."""

    num_cpus: int | None = None
    """As found where `None`."""
    object_store_bytes: int = 100 * 2**20
    """Small: reports are small, and weights never travel through Ray."""


@dataclass(frozen=True, kw_only=True)
class RayRecord:
    """A Ray that was started."""

    address: str
    """host:port, as `ray.init` takes it."""
    pid: int
    started: str
    """In ticks since boot."""
    boot_id: str
    ray_version: str
    folder: str
    """Of its logs and sockets."""

    @property
    def process(self) -> Process:
        """The one that stands for all of it."""
        return Process(pid=self.pid, started=self.started)


class RayDaemon:
    """The Ray of a data directory. One process at a time may use it: whoever has the journal."""

    def __init__(self, data_dir: Path, options: DaemonOptions | None = None) -> None:
        """Look after the Ray of `data_dir`, which must exist. Nothing is started.

        From here on this process can join that Ray, and no other: ray, which must not be imported yet, reads once in a
        process's life which token and which interface it uses.

        Raises:
            RuntimeError: ray was imported before.
        """
        self._options = options or DaemonOptions()
        use_loopback()
        self._data_dir = data_dir
        self._record_path = data_dir / _RECORD
        self._folder = _folder(data_dir.resolve())
        # Ray opens its folder to everybody, again and again; so it has one inside of ours.
        self._folder_argument = f"--temp-dir={self._folder / 'r'}"
        self.token_path = data_dir.resolve() / "ray_token"
        use_token(self.token_path)
        self._child: subprocess.Popen[bytes] | None = None

    def find(self) -> RayRecord | None:
        """The Ray that lives, of the version that is installed now; `None` where there is none."""
        record = self.record_of(self._data_dir)
        if record is None or not self._lives(record) or record.ray_version != version("ray"):
            return None
        return record

    @property
    def is_alive(self) -> bool:
        """Whether there is one that answers."""
        record = self.find()
        return record is not None and answers(record.address)

    def ensure(self) -> RayRecord:
        """The Ray that lives, or a new one after clearing away what is left of a dead one.

        Raises:
            WorkerError: It cannot be started; with Ray's last words.
        """
        record = self.find()
        if record is not None and answers(record.address):
            return record
        self.stop()
        return self._start()

    def stop(self) -> None:
        """End it and all that it runs, dead halves included. Without effect where there is nothing."""
        record = self.record_of(self._data_dir)
        if record is not None and record.boot_id == boot_id():
            _kill_session(record.process)
        # One whose starter died before it could write the record.
        for process in started_with(self._folder_argument):
            _kill_session(process)
        if self._child is not None:
            self._child.wait()
            self._child = None
        self._record_path.unlink(missing_ok=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self) -> RayRecord:
        self._make_token()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._folder.stat().st_uid != os.getuid():
            raise WorkerError(f"{self._folder} belongs to somebody else; remove it, or name another data directory")
        address = f"{LOOPBACK}:{_free_port(LOOPBACK)}"
        said = self._folder / "start.log"
        with said.open("wb") as output:
            self._child = subprocess.Popen(
                self._command(address),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment(),
                cwd=self._folder,
                start_new_session=True,
            )
        process = find_process(self._child.pid)
        record = RayRecord(
            address=address,
            pid=self._child.pid,
            started=process.started if process is not None else "",
            boot_id=boot_id(),
            ray_version=version("ray"),
            folder=str(self._folder),
        )
        # Before it is known to have started: whoever comes after a crash must find it, whole or not.
        self._write(record)
        deadline = time.monotonic() + _START_SECONDS
        while b"Ray runtime started" not in said.read_bytes():
            if self._child.poll() is not None or time.monotonic() > deadline:
                words = said.read_text(encoding="utf-8", errors="replace").strip().splitlines()
                self.stop()
                raise WorkerError(f"Ray cannot be started: {words[-1] if words else 'it said nothing'}")
            time.sleep(_LOOK_SECONDS)
        return record

    def _command(self, address: str) -> list[str]:
        options = self._options
        host, _, port = address.rpartition(":")
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--log-color=false"),
            f"--node-ip-address={host}",
            f"--port={port}",
            self._folder_argument,
            f"--object-store-memory={options.object_store_bytes}",
            "--include-dashboard=false",
            "--disable-usage-stats",
            "--include-log-monitor=false",
        ]
        if options.num_cpus is not None:
            command.append(f"--num-cpus={options.num_cpus}")
        return command

    def _environment(self) -> dict[str, str]:
        # What is in RAY_ADDRESS would be another Ray's.
        inherited = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        return {
            **ENVIRONMENT,
            "RAY_memory_usage_threshold": str(_MEMORY_FRACTION),
            **inherited,
        }

    def _make_token(self) -> None:
        """Once for all: a process that has opened Ray keeps the token it has read."""
        try:
            descriptor = os.open(self.token_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            self.token_path.chmod(0o600)
            return
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))

    def _lives(self, record: RayRecord) -> bool:
        if self._child is not None:
            # What died as our child stays in the process table until it is asked for.
            self._child.poll()
        return record.boot_id == boot_id() and is_running(record.process)

    @staticmethod
    def record_of(data_dir: Path) -> RayRecord | None:
        """What was last started there, alive or not; `None` if it was stopped, or never was."""
        try:
            return RayRecord(**json.loads((data_dir / _RECORD).read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def _write(self, record: RayRecord) -> None:
        _write_whole(self._record_path, json.dumps(asdict(record)))


def _write_whole(path: Path, text: str) -> None:
    temporary = path.with_suffix(f".{secrets.token_hex(4)}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    fsync(path.parent)


def _short(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def _folder(data_dir: Path) -> Path:
    """Below the data directory, where nothing tidies up; elsewhere only if sockets there would have too long names."""
    folder = data_dir / "ray"
    if len(str(folder)) <= _LONGEST_FOLDER:
        return folder
    return Path(tempfile.gettempdir()) / f"loraloom-{_short(str(data_dir))}"


def _free_port(host: str) -> int:
    with socket.socket() as listening:
        listening.bind((host, 0))
        return listening.getsockname()[1]


def answers(address: str) -> bool:
    """Whether anybody listens at host:port."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def _kill_session(leader: Process) -> None:
    """Kill what runs in a session until nothing does: new ones may be started meanwhile."""
    found = find_process(leader.pid)
    if found is not None and found != leader:
        return
    kill_if_same(leader)
    deadline = time.monotonic() + _END_SECONDS
    while (left := session_members(leader.pid)) and time.monotonic() < deadline:
        for process in left:
            kill_if_same(process)
        time.sleep(_LOOK_SECONDS)
