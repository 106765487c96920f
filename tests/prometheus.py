"""A real Prometheus for tests: found on this machine, started on a configuration, asked."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from tests.machine import end, program

PATIENCE_SECONDS = 240.0
MEND = "make prometheus"


class NotReadyError(Exception):
    """It listens before it has opened its data, and answers so meanwhile, in plain text."""


class Prometheus:
    """One, on a port of its own, its data in a folder of the test."""

    def __init__(self, config: Path, folder: Path, port: int) -> None:
        self._log = folder / "prometheus.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    program("prometheus", mend=MEND),
                    f"--config.file={config}",
                    f"--storage.tsdb.path={folder / 'prometheus-data'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                    "--log.level=warn",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60.0, trust_env=False)

    def close(self) -> None:
        """End it."""
        self._http.close()
        end(self._process)

    def get(self, path: str, **parameters: str) -> Any:
        """`data` of an answer of its API."""
        answer = self._http.get(f"/api/v1/{path}", params=parameters)
        if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            raise NotReadyError
        body = answer.json()
        assert body["status"] == "success", f"{parameters}: {body}"
        return body["data"]

    def query(self, expr: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each series, as of now."""
        return [(one["metric"], float(one["value"][1])) for one in self.get("query", query=expr)["result"]]

    def until(self, happened: Callable[[], object], what: str) -> None:
        """Wait for something, while it lives."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                if happened():
                    return
            except (httpx.TransportError, NotReadyError):
                pass
            assert self._process.poll() is None, f"prometheus ended: {self._log.read_text()}"
            assert time.monotonic() < deadline, f"not within {PATIENCE_SECONDS:g} s: {what}\n{self._log.read_text()}"
            time.sleep(0.2)
