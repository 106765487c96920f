"""What passes by itself and what does not, among the errors that bases and data are met with."""

from __future__ import annotations

import errno
import http.server
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from jobs.errors import BaseModelError, DataError
from workers.passing import hub_advice, is_memory_taken, is_passing


class Answer:
    def __init__(self, status_code: int) -> None:
        self.status_code = status_code


class HfHubHTTPError(OSError):
    def __init__(self, status_code: int) -> None:
        super().__init__(f"{status_code}")
        self.response = Answer(status_code)


class GatedRepoError(HfHubHTTPError):
    pass


class ConnectError(Exception):
    pass


class OfflineModeIsEnabled(ConnectionError):
    pass


def caused(error: BaseException) -> BaseModelError:
    """As the loaders raise it: two libraries further up."""
    try:
        try:
            try:
                raise error
            except BaseException as first:
                raise OSError("We couldn't connect to the hub") from first
        except OSError as second:
            raise BaseModelError("the base model cannot be read") from second
    except BaseModelError as raised:
        return raised


PASSING = [
    *(HfHubHTTPError(status) for status in (408, 429, 500, 502, 503, 504)),
    *(OSError(number, os.strerror(number)) for number in (errno.EIO, errno.ESTALE, errno.ENOSPC, errno.ECONNRESET)),
    TimeoutError("timed out"),
    ConnectionResetError("reset"),
    ConnectError("[Errno 111] Connection refused"),
    socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
]
FINAL = [
    *(HfHubHTTPError(status) for status in (400, 401, 403, 404, 410)),
    *(OSError(number, os.strerror(number)) for number in (errno.ENOENT, errno.EACCES, errno.EISDIR)),
    GatedRepoError(401),
    OfflineModeIsEnabled("offline"),
    socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
    ValueError("Llama4VisionConfig is not a causal language model"),
    RuntimeError("Error while deserializing header"),
    KeyError("weight_map"),
]


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_what_passes_is_known_through_whatever_was_raised_from_it(error: BaseException) -> None:
    assert is_passing(error)
    assert is_passing(caused(error))


@pytest.mark.parametrize("error", FINAL, ids=repr)
def test_what_does_not_pass_is_final(error: BaseException) -> None:
    assert not is_passing(error)
    assert not is_passing(caused(error))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: out of memory"),
    ],
)
def test_memory_that_others_hold_is_known(error: BaseException) -> None:
    assert is_memory_taken(caused(error))
    assert not is_memory_taken(caused(ValueError("x")))


def test_an_error_of_a_row_does_not_pass_though_it_was_met_after_a_busy_hub() -> None:
    def read() -> None:
        try:
            raise HfHubHTTPError(503)
        except HfHubHTTPError:
            raise DataError("row 3 has no text") from None

    with pytest.raises(DataError) as caught:
        read()
    assert not is_passing(caught.value)


def test_a_hub_that_refuses_is_told_with_what_to_do() -> None:
    assert "accept its terms" in (hub_advice(caused(GatedRepoError(401))) or "")
    assert "HF_TOKEN" in (hub_advice(caused(HfHubHTTPError(403))) or "")
    assert hub_advice(caused(HfHubHTTPError(503))) is None


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers by what is asked for."""

    def do_GET(self) -> None:
        status, code = (503, "") if "busy" in self.path else (401, "GatedRepo") if "gated" in self.path else (404, "")
        self.send_response(status)
        self.send_header("X-Error-Code", code or "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


_LOOK = """
import time
time.sleep = lambda _: None
from jobs.spec import JobSpec
from workers.preflight import Preflight
for name in ("busy", "gated", "none"):
    for model, data in ((f"org/{name}", "rows.jsonl"), (BASE, f"org/{name}")):
        spec = {"name": "a", "model": {"model_name_or_path": model}, "datasets": [{"path": data}]}
        estimate, problems = Preflight().check(JobSpec.model_validate(spec))
        print(name, all(one.is_passing for one in problems), problems[0].message.replace(chr(10), " "), sep="|")
"""


def test_what_the_libraries_make_of_a_hubs_answers_is_known(hub: str, tmp_path: Path) -> None:
    """The real ones, in a process of its own, since they read the hub's address once."""
    from tests.tiny_base import write_tiny_base

    base = write_tiny_base(tmp_path / "tiny")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    environment |= {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", _LOOK.replace("BASE", repr(str(base)))],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = [line.split("|", 2) for line in done.stdout.splitlines()]
    assert [(name, passing) for name, passing, _ in told] == [
        *[("busy", "True")] * 2,
        *[("gated", "False")] * 2,
        *[("none", "False")] * 2,
    ]
    assert "accept its terms" in told[2][2]
    assert all("HF_TOKEN" in message for name, _, message in told if name != "busy")
