"""Where the service listens, and under which names it may be addressed."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

from jobs.errors import LoraloomError


@dataclass(frozen=True, kw_only=True)
class Address:
    """The interface that the service listens at, and the names that lead there."""

    host: str = "127.0.0.1"
    names: Collection[str] = ()
    """Further host names that people reach it by, such as that of a proxy in front of it."""

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        return _is_loopback(self.host)

    def require_tokens(self, has_tokens: bool) -> None:
        """Refuse to stand open.

        Raises:
            LoraloomError: Others can connect and nothing asks who they are.
        """
        if not self.is_loopback and not has_tokens:
            raise LoraloomError(
                f"--host {self.host} can be reached from other machines, and there is no token file: name one with "
                "--token-file, or listen at 127.0.0.1"
            )

    def is_ours(self, header: str) -> bool:
        """Whether a Host header names this service.

        A page of somebody else's can make its own name resolve to this machine (DNS rebinding), but not make a
        browser send another name than its own. An address instead of a name cannot be made to resolve elsewhere.
        """
        host = _without_port(header)
        if host is None:
            return False
        if host in self._own_names:
            return True
        if self.is_loopback:
            return _is_loopback(host)
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return False
        return True

    @cached_property
    def _own_names(self) -> frozenset[str]:
        names = {"localhost", self.host, *self.names}
        if not self.is_loopback:
            names |= {socket.gethostname(), socket.getfqdn()}
        return frozenset(name.lower() for name in names)


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _without_port(header: str) -> str | None:
    """The host of a Host header in lower case, brackets of IPv6 removed; `None` where it is none."""
    if header.startswith("["):
        host, bracket, port = header[1:].partition("]")
        if not bracket or (port and not (port.startswith(":") and port[1:].isdigit())):
            return None
        return host.lower()
    host, colon, port = header.partition(":")
    if not host or (colon and not port.isdigit()):
        return None
    return host.lower().rstrip(".")
