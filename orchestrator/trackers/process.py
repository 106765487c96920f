"""A tracker's own process: reads a message a line, tells the library, says on stdout what a job's owner should know.

`python -m orchestrator.trackers.process TOOL FOLDER`, started by channel.py. It ends when its input does.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import IO, Any

from orchestrator.trackers.sinks import SINKS, Sink


class Process:
    """Jobs that fail to be told are told no more; the others are."""

    def __init__(self, tool: str, folder: Path, out: IO[str]) -> None:
        self._tool = tool
        self._folder = folder
        self._out = out
        self._sink: Sink | None = None
        self._broken: set[str] = set()

    def take(self, message: dict[str, Any]) -> None:
        """One message."""
        job_id = message["job"]
        if job_id in self._broken:
            if message["kind"] == "end":
                self._broken.discard(job_id)
            return
        try:
            self._pass_on(message)
        except ImportError as error:
            self._complain(job_id, f"is not installed here ({error}); pip install 'loraloom[{self._tool}]'")
        # Whatever a library does, other jobs go on, and so does training.
        except BaseException as error:
            self._complain(job_id, f"has failed and is told nothing more: {type(error).__name__}: {error}")

    def close(self) -> None:
        """Nothing more comes."""
        if self._sink is not None:
            self._sink.close()

    def _pass_on(self, message: dict[str, Any]) -> None:
        if self._sink is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._sink = SINKS[self._tool](self._folder)
        match message["kind"]:
            case "begin":
                self._sink.begin(message["job"], message["run"], message["name"], message["spec"])
            case "log":
                self._sink.log(message["job"], message["step"], message["values"])
            case _:
                self._sink.end(message["job"], message["state"])

    def _complain(self, job_id: str, what: str) -> None:
        self._broken.add(job_id)
        said = {"job": job_id, "message": f"report_to: {self._tool} {what}"[:1000]}
        print(json.dumps(said), file=self._out, flush=True)


def main() -> None:
    """Until the input ends."""
    tool, folder = sys.argv[1:]
    # Libraries print what they like; our own words go where our parent reads them.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    process = Process(tool, Path(folder), out)
    try:
        for line in sys.stdin.buffer:
            process.take(json.loads(line))
    finally:
        process.close()


if __name__ == "__main__":
    main()
