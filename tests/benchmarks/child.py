"""A contender in a process of its own, driven over pipes: for processes side by side, and to read one's peak memory.

`python -m tests.benchmarks.child` is the process. It reads pickled messages from stdin and answers on what was its
stdout; stdout itself is sent to stderr, so that a library that prints cannot spoil an answer.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from tests.benchmarks.process_memory import Peak, peak_bytes, reset_peak, resident_bytes
from tests.benchmarks.setting import TokenRow, Tokens

Batch = Sequence[Sequence[TokenRow]]
"""Rows of one step, by job."""

_QUIET = {"PYTHONWARNINGS": "ignore::FutureWarning", "TQDM_DISABLE": "1"}
"""Sixteen processes would say the same of their libraries sixteen times."""


class Child:
    """The parent's end. Ask and answer are apart, so that many children can work at a time."""

    def __init__(self, factory: Callable[..., Any], *arguments: Any, num_threads: int) -> None:
        """Start a process that makes its contender by `factory(*arguments)`; `wait_ready` says when it has.

        Args:
            factory: A class or function of some module, which the process imports.
            arguments: What it is called with; they are pickled.
            num_threads: Threads of the process's products.
        """
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | _QUIET | {"OMP_NUM_THREADS": str(num_threads), "MKL_NUM_THREADS": str(num_threads)},
        )
        self._send((factory, arguments))

    def wait_ready(self) -> None:
        """Until the contender is made."""
        self.answer()

    def ask_step(self, batch: Batch) -> None:
        """Run one step; the answer is its seconds."""
        self._send(("step", [batch]))

    def ask_peak(self, batches: Sequence[Batch]) -> None:
        """Run steps and watch; the answer is a `Peak`."""
        self._send(("peak", batches))

    def ask_attribute(self, name: str) -> None:
        """The answer is the value."""
        self._send(("attribute", name))

    def answer(self) -> Any:
        """Wait for the answer to the oldest question.

        Raises:
            RuntimeError: The process is gone; its own traceback is on stderr.
        """
        assert self._process.stdout is not None
        try:
            return pickle.load(self._process.stdout)
        except EOFError:
            code = self._process.wait()
            raise RuntimeError(f"a benchmark process ended with exit code {code}; what it wrote is above") from None

    def close(self) -> None:
        """End the process. Safe to call again."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _send(self, message: tuple[Any, Any]) -> None:
        assert self._process.stdin is not None
        try:
            pickle.dump(message, self._process.stdin)
            self._process.stdin.flush()
        except BrokenPipeError:
            self.answer()


def bare(batch: Batch) -> list[list[Tokens]]:
    """The same rows without any type of the engine, whose import would weigh in a PEFT process's memory."""
    return [[Tokens(row.ids, row.labelled) for row in rows] for rows in batch]


def main() -> None:
    """Serve one parent until it closes the pipe."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    questions = sys.stdin.buffer

    def answer(value: Any) -> None:
        pickle.dump(value, answers)
        answers.flush()

    factory, arguments = pickle.load(questions)
    contender = factory(*arguments)
    answer("ready")
    while True:
        try:
            question, argument = pickle.load(questions)
        except EOFError:
            return
        if question == "step":
            answer(contender.step(argument[0]))
        elif question == "peak":
            answer(_peak(contender.step, argument))
        else:
            answer(getattr(contender, argument))


def _peak(step: Callable[[Batch], float], batches: Sequence[Batch]) -> Peak:
    resident = resident_bytes()
    reset_peak()
    for batch in batches:
        step(batch)
    return Peak(resident_bytes=resident, peak_bytes=peak_bytes())


if __name__ == "__main__":
    main()
