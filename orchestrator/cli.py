"""The `loraloom` command: parses, calls, prints. Data on stdout, everything else on stderr."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

import typer
from rich.text import Text

from jobs.errors import LoraloomError, Problem, SpecError
from orchestrator.commands import artifacts, logs, look, operate, preview, serve, specs, steer, submit, train
from orchestrator.commands.output import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_INVALID,
    EXIT_TERMINATED,
    plain,
    signal_behind,
    stderr,
)
from orchestrator.interruption import Interrupted
from orchestrator.openmp import spin_briefly

_NAME = "loraloom"

app = typer.Typer(
    name=_NAME,
    help="Train many LoRA adapters at once on one frozen base model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Entry point of the console script."""
    signal.signal(signal.SIGTERM, _raise_terminated)
    spin_briefly()
    try:
        # Not standalone, the parser returns the code of `typer.Exit` (its own for Ctrl-C) and raises everything else.
        code = _parse_and_run()
        if code == EXIT_INTERRUPTED:
            raise KeyboardInterrupt
        sys.exit(code)
    except (KeyboardInterrupt, typer.Abort):
        _tell_interrupted("interrupted", "")
        sys.exit(EXIT_INTERRUPTED)
    except Interrupted as interrupted:
        is_terminated = interrupted.number == signal.SIGTERM
        _tell_interrupted("terminated" if is_terminated else "interrupted", interrupted.told)
        sys.exit(EXIT_TERMINATED if is_terminated else EXIT_INTERRUPTED)
    except SpecError as error:
        _print_problems(error.problems)
        sys.exit(EXIT_INVALID)
    except LoraloomError as error:
        stderr().print(Text(plain(str(error)), style="red"), soft_wrap=True)
        sys.exit(getattr(error, "exit_code", EXIT_FAILED))
    except BrokenPipeError:
        # As with `| head`: whoever read has seen enough, and Python must not complain of it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILED)
    except Exception as error:
        if not hasattr(error, "exit_code"):
            raise
        # Usage errors of the command-line parser know how to show themselves.
        error.show()  # type: ignore[attr-defined]
        sys.exit(EXIT_INVALID)


def _parse_and_run() -> int:
    """The exit code; a signal that Python has made another error of is raised as what it was."""
    try:
        return app(standalone_mode=False, prog_name=_NAME) or 0
    except Exception as error:
        signalled = signal_behind(error)
        if signalled is None:
            raise
        raise signalled from None


for verbs in (specs, preview, train, serve, submit, look, logs, steer, artifacts, operate):
    verbs.add(app)


def _print_problems(problems: tuple[Problem, ...]) -> None:
    console = stderr()
    for problem in problems:
        console.print(Text(str(problem)), soft_wrap=True)
    count = len(problems)
    console.print(f"{count} {'problem' if count == 1 else 'problems'}; nothing was started", style="bold red")


def _raise_terminated(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise Interrupted(signal.SIGTERM)


def _tell_interrupted(how: str, told: str) -> None:
    message = f"{how}: {f'{told}; ' if told else ''}run the same command again to go on from there"
    stderr().print(Text(message, style="yellow"), soft_wrap=True)


if __name__ == "__main__":
    main()
