"""What is kept of an exception once it was caught.

The traceback of an exception holds the frames that it passed through, and with them every local variable there: of a
pack that ran out of memory all hidden states and their graph. Whoever stores the exception stores those as well, and
what is tried next has to fit beside them. So exceptions are turned into text where they are caught, and no further.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass

from jobs.errors import LoraloomError
from workers.device_errors import chain_of, is_out_of_memory, is_sticky


@dataclass(frozen=True, kw_only=True)
class CaughtError:
    """An exception that holds no frames any more."""

    report: str
    """The whole traceback as Python prints it."""
    summary: str
    """Its last line: type and message."""
    message: str
    own: LoraloomError | None
    """The exception itself where Loraloom raised it on purpose, without traceback, cause and context."""
    is_out_of_memory: bool = False
    is_sticky: bool = False
    """Whether the device is lost to this process."""

    def __str__(self) -> str:
        return self.message


def catch(error: BaseException) -> CaughtError:
    """Take out of an exception what is to be kept, and let go of all that its frames hold.

    The frames are cleared too, since a cycle or somebody else's reference may keep the exception itself alive. To be
    called in the `except` block; what was caught is free once that block is left.
    """
    caught = CaughtError(
        report="".join(traceback.format_exception(error)).rstrip(),
        summary="".join(traceback.format_exception_only(error)).strip().splitlines()[-1],
        message=str(error),
        own=error if isinstance(error, LoraloomError) else None,
        is_out_of_memory=is_out_of_memory(error),
        is_sticky=is_sticky(error),
    )
    for one in list(chain_of(error)):
        traceback.clear_frames(one.__traceback__)
        one.__traceback__ = one.__context__ = one.__cause__ = None
    return caught
