"""Which errors of bases and data pass by themselves: of a busy hub, a network, a share, a cache without room.

What passes is tried again and nobody is charged; all else ends the jobs that asked, with its reason. Errors of stores
are judged by `store_errors`, those of devices by `device_errors`. Nothing heavy is imported: libraries' errors go by
the names of their classes.
"""

from __future__ import annotations

import errno
import re
import socket
from collections.abc import Iterator

_BUSY_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
_PASSING_ERRNOS = frozenset(
    {
        *(errno.EIO, errno.ESTALE, errno.EREMOTEIO, errno.ETIMEDOUT, errno.EAGAIN, errno.EBUSY, errno.ENOLCK),
        *(errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED, errno.EPIPE, errno.ENETDOWN, errno.ENETUNREACH),
        *(errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT),
    }
)
"""Of shares, networks, a cache without room, and processes that have too many files open."""
_PASSING_CLASSES = frozenset(
    {
        *("ConnectError", "ConnectTimeout", "ReadError", "ReadTimeout", "WriteError", "WriteTimeout", "PoolTimeout"),
        *("RemoteProtocolError", "ChunkedEncodingError", "IncompleteRead", "ProtocolError", "ProxyError"),
    }
)
"""Of httpx, requests, urllib3 and http.client."""
_FINAL_CLASSES = frozenset({"OfflineModeIsEnabled"})
"""Though they are `ConnectionError`s."""
_OUT_OF_MEMORY = re.compile(r"DefaultCPUAllocator|(CUDA|HIP)( driver)? error: out of memory|_STATUS_ALLOC_FAILED")


def is_passing(error: BaseException) -> bool:
    """Whether what an error comes from, through whatever it was raised from, may be gone the next time."""
    chain = list(_chain(error))
    return not any(type(one).__name__ in _FINAL_CLASSES for one in chain) and any(_passes(one) for one in chain)


def is_memory_taken(error: BaseException) -> bool:
    """Whether a device or machine had no memory left, which another process that is just ending may have."""
    return any(
        isinstance(one, MemoryError)
        or type(one).__name__ == "OutOfMemoryError"
        or (isinstance(one, RuntimeError) and _OUT_OF_MEMORY.search(str(one)) is not None)
        for one in _chain(error)
    )


def hub_advice(error: BaseException) -> str | None:
    """What a person has to do about a hub that refuses; `None` where it does not."""
    names = {type(one).__name__ for one in _chain(error)}
    if "GatedRepoError" in names:
        return (
            "it is gated: accept its terms on its page, and give HF_TOKEN of that account to this process and its "
            "workers"
        )
    if "RepositoryNotFoundError" in names:
        return "the hub has no such repository, or HF_TOKEN is not of an account that may see it"
    if {_status(one) for one in _chain(error)} & {401, 403}:
        return "the hub refuses access: give HF_TOKEN of an account that may read it to this process and its workers"
    return None


def _passes(error: BaseException) -> bool:
    if _status(error) in _BUSY_STATUSES:
        return True
    if type(error).__name__ in _PASSING_CLASSES or isinstance(error, TimeoutError | ConnectionError):
        return True
    if isinstance(error, socket.gaierror):
        return error.errno == socket.EAI_AGAIN
    return isinstance(error, OSError) and error.errno in _PASSING_ERRNOS


def _status(error: BaseException) -> int | None:
    """Of the answer that an error of an HTTP library is about."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it was raised from, or while handling; each once."""
    one: BaseException | None = error
    seen = set[int]()
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
