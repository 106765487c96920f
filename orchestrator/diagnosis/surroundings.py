"""The service, Ray, ports, tokens and base models."""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

from jobs.errors import LoraloomError
from orchestrator.diagnosis.findings import Finding, ok, problem, warning

_CONNECT_SECONDS = 3.0
_MOST_SKEW_SECONDS = 5.0
_RAY_DASHBOARD_PORT = 8265
_MOST_HEADER_BYTES = 100 * 2**20
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def service(url: str) -> Iterator[Finding]:
    """A service answers at the address, or one could be started there."""
    import httpx

    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or (443 if parts.scheme == "https" else 80)
    token = os.environ.get("LORALOOM_TOKEN")
    try:
        with httpx.Client(timeout=_CONNECT_SECONDS, trust_env=host not in _LOOPBACK) as client:
            ready = client.get(f"{url}/readyz")
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            listed = client.get(f"{url}/api/v1/queues", headers=headers)
    except httpx.HTTPError as error:
        if host in _LOOPBACK and not _listens(host, port):
            yield ok("port", f"{port} is free: no service runs at {url}; `loraloom serve` starts one")
        else:
            mend = "look whether it still runs and what its log says; LORALOOM_URL may name another one"
            yield problem("service", f"nothing that is a service answers at {url}: {error}", mend)
        return
    if ready.status_code not in (200, 503) or "version" not in ready.text:
        mend = f"`loraloom serve --port` takes another port, or end what listens at {port}"
        yield problem("port", f"{port} is taken by something that is no Loraloom service", mend)
        return
    if ready.status_code == 503:
        yield warning("service", f"{url} is not ready: {ready.json().get('detail')}", "wait, or look at its log")
    else:
        yield ok("service", f"{url} is ready, version {ready.json().get('version')}")
    if listed.status_code == 401:
        if token:
            yield problem("token", "the service does not know the one in LORALOOM_TOKEN", "ask its operator for one")
        else:
            mend = "put yours into LORALOOM_TOKEN; its operator gives one"
            yield problem("token", "the service asks for a token, and LORALOOM_TOKEN is not set", mend)
    date = ready.headers.get("date")
    if date is not None:
        skew = parsedate_to_datetime(date).timestamp() - time.time()
        if abs(skew) > _MOST_SKEW_SECONDS:
            mend = "start a time service such as chrony on both machines"
            yield warning("clock", f"that of the service is {skew:+.0f} s from this one", mend)


def ray(address: str | None) -> Iterator[Finding]:
    """The Ray to be joined answers, and none stands open to everybody."""
    from importlib.metadata import version

    if address is None:
        yield ok("ray", f"version {version('ray')}; a service starts its own unless --ray-address names one")
    else:
        host, _, port = address.rpartition(":")
        host = host.removeprefix("ray://").strip("[]")
        if not host or not port.isdigit():
            yield problem("ray", f"--ray-address is {address}, which is no HOST:PORT", "write such as 10.0.0.1:6379")
        elif not _listens(host, int(port)):
            mend = "start it with `ray start --head`, or look at the address and at firewalls"
            yield problem("ray", f"nothing listens at {address}", mend)
        else:
            yield ok("ray", f"{address} answers; version {version('ray')} here, and all nodes must have the same")
    if os.environ.get("RAY_AUTH_MODE", "token") != "token":
        yield warning(
            "ray tokens", f"RAY_AUTH_MODE is {os.environ['RAY_AUTH_MODE']}", "unset it: who reaches Ray runs code here"
        )
    key = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if key.is_file() and key.stat().st_mode & 0o077:
        yield problem("ray tokens", f"{key} can be read by others, who could run code here", f"chmod 600 {key}")
    outside = _outside_address()
    if outside is not None and _listens(outside, _RAY_DASHBOARD_PORT):
        yield warning(
            "ray dashboard",
            f"something listens at {outside}:{_RAY_DASHBOARD_PORT}, where Ray's dashboard takes jobs from anybody",
            "start Ray with --dashboard-host=127.0.0.1",
        )


def token_file(path: Path | None) -> Iterator[Finding]:
    """A service could use it."""
    from orchestrator.api.tokens import Tokens

    if path is None:
        return
    try:
        Tokens.read(path)
    except LoraloomError as error:
        yield problem("tokens", str(error), "see the message")
    else:
        yield ok("tokens", f"{path} can be used")


def base(name: str) -> Iterator[Finding]:
    """A base model is there and can be read, as far as headers tell."""
    what = "base"
    folder = Path(name)
    if not folder.is_dir():
        if folder.is_absolute() or name.startswith("."):
            yield problem(what, f"there is no folder {name}", "look at model.model_name_or_path")
            return
        cached = _hub_cache() / f"models--{name.replace('/', '--')}" / "snapshots"
        snapshots = sorted(cached.iterdir()) if cached.is_dir() else []
        if not snapshots:
            offline = os.environ.get("HF_HUB_OFFLINE") == "1"
            mend = "download it first: `hf download`, or name a folder"
            found = f"{name} is not in this machine's cache {_hub_cache()}"
            yield (
                problem(what, f"{found}, and HF_HUB_OFFLINE is set", mend)
                if offline
                else warning(what, f"{found}: the first job downloads it", mend)
            )
            return
        folder = snapshots[-1]
    try:
        json.loads((folder / "config.json").read_text(encoding="utf-8"))
        weights = sorted(folder.glob("*.safetensors"))
        for file in weights:
            _check_header(file)
    except (OSError, ValueError) as error:
        yield problem(what, f"{name} cannot be read: {error}", "download it again, or change its mode")
        return
    if weights:
        total = sum(file.stat().st_size for file in weights)
        yield ok(what, f"{name}: {len(weights)} files of weights, {total / 2**30:.2f} GiB")
    elif list(folder.glob("*.gguf")):
        yield ok(what, f"{name}: GGUF")
    else:
        yield problem(what, f"{name} has no *.safetensors", "download it again; other formats can run code")


def _check_header(file: Path) -> None:
    """What a safetensors file begins with: the length of a JSON text, and the text.

    Raises:
        ValueError: It is something else, or too short.
    """
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= _MOST_HEADER_BYTES:
            raise ValueError(f"{file.name} is no safetensors file")
        header = json.loads(stream.read(length))
    end = max((entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"), default=0)
    if file.stat().st_size != 8 + length + end:
        raise ValueError(f"{file.name} has {file.stat().st_size:,} bytes instead of {8 + length + end:,}")


def _hub_cache() -> Path:
    home = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub")


def _listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=_CONNECT_SECONDS):
            return True
    except OSError:
        return False


def _outside_address() -> str | None:
    """Address by which others know this machine; nothing is sent to find it out."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))
            found = str(probe.getsockname()[0])
    except OSError:
        return None
    return None if found.startswith("127.") else found
