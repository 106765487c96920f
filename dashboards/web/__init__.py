"""The web pages: ES modules as they are written, without a build, and the rules a browser shall hold them to.

`index.html` is every page; `app/` draws what the path asks for from the HTTP API alone. `vendor/` holds the work of
others, see `dashboards.vendoring`.
"""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
"""Holds the files below; the same in a wheel as in a checkout."""

SHOWN = ("app", "styles", "vendor")
"""Folders that a browser may read."""

CONTENT_POLICY = "; ".join(
    [
        # Nothing that is not named here: no frames, plugins, workers, media.
        "default-src 'none'",
        # Our own files and those of `vendor`; no inline script, no eval.
        "script-src 'self'",
        # Style sheets are files. Widths and colours of data are set through the object model, which this allows.
        "style-src 'self'",
        # The icon.
        "img-src 'self'",
        # Two fonts of `vendor`.
        "font-src 'self'",
        # The API of this service, and nothing else on any network.
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        # Text can never become markup: no sink of the document takes a string.
        "require-trusted-types-for 'script'",
        # And nobody may make an exception: none of the libraries needs one.
        "trusted-types 'none'",
    ]
)
"""`Content-Security-Policy` of the pages, each part with its reason."""

PERMISSIONS_POLICY = "camera=(), geolocation=(), microphone=(), payment=(), usb=()"

_TYPES = {".js": "text/javascript", ".woff2": "font/woff2", ".svg": "image/svg+xml", ".txt": "text/plain"}


@dataclass(frozen=True, kw_only=True)
class Asset:
    """A file as it is sent."""

    content: bytes
    packed: bytes | None
    """The same in gzip, where that is less."""
    media_type: str
    etag: str


def page() -> Asset:
    """The document that every path of the pages is answered with."""
    return _asset(FOLDER / "index.html")


def assets() -> dict[str, Asset]:
    """All files that the page loads, by their path below the folder."""
    return {
        path.relative_to(FOLDER).as_posix(): _asset(path)
        for shown in SHOWN
        for path in sorted((FOLDER / shown).rglob("*"))
        if path.is_file()
    }


def _asset(path: Path) -> Asset:
    content = path.read_bytes()
    media_type = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    packed = gzip.compress(content, mtime=0)
    return Asset(
        content=content,
        packed=packed if len(packed) < len(content) else None,
        media_type=media_type,
        etag=f'"{hashlib.sha256(content).hexdigest()[:32]}"',
    )
