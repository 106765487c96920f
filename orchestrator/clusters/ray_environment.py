"""What Ray reads from the environment, in our processes and in those that it starts.

Set when this is imported, which has to be before ray is: that reads it then. What the user has chosen stays.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

TOKEN_PATH = "RAY_AUTH_TOKEN_PATH"
_MANY_MACHINES = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Where it is 0 Ray binds all of its ports to the loopback interface. Elsewhere it takes 127.0.0.1 for a mistake: puts
the machine's outer address in its place and listens on all interfaces."""

ENVIRONMENT = {
    # Usage reports are off.
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray executes what is sent to its ports; a token opens them (CVE-2023-48022).
    "RAY_AUTH_MODE": "token",
    # Training is what the machine is for, so its processes do not stand back behind all others, as Ray's do by default.
    "RAY_worker_niceness": "0",
    # Workers must see the same accelerators that the node has.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


for _name, _value in ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)


def use_loopback() -> None:
    """Let a Ray that this process starts, or the one that it joins, be on this machine alone. Before ray is imported.

    Raises:
        RuntimeError: It is too late.
    """
    already = os.environ.get(_MANY_MACHINES)
    if "ray" in sys.modules and already != "0":
        raise RuntimeError("ray was imported before it was decided that it is to be on this machine alone")
    os.environ[_MANY_MACHINES] = "0"


def use_token(path: Path) -> None:
    """Let this process open the Ray whose token is in a file."""
    os.environ[TOKEN_PATH] = str(path)


def token_path() -> Path:
    """Where Ray looks for its token, unless the token itself is in the environment."""
    return Path(os.environ.get(TOKEN_PATH) or Path.home() / ".ray" / "auth_token")


def protect_token() -> None:
    """For its owner alone: Ray was seen to leave it readable for everybody."""
    path = token_path()
    if path.is_file():
        path.chmod(0o600)
