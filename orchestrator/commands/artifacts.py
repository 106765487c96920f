"""`loraloom artifacts ls`, `get` and `verify`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.commands.completion import JobArgument
from orchestrator.commands.output import EXIT_FAILED, AsJson, cell, print_json, service, size, stdout, table, tell

if TYPE_CHECKING:
    from orchestrator.api.models import ArtifactListing
    from orchestrator.client import Client

_MANIFEST = "manifest.json"


def add(app: typer.Typer) -> None:
    """Add the group of verbs."""
    group = typer.Typer(help="Published adapters: list, download, verify.", no_args_is_help=True)
    group.command("ls")(ls)
    group.command("get")(get)
    group.command("verify")(verify)
    app.add_typer(group, name="artifacts")


def ls(job: JobArgument, as_json: AsJson = False) -> None:
    """List the files of a job's published adapter."""
    with service() as client:
        listing = client.artifacts(job)
    if as_json:
        print_json(listing)
        return
    shown = table("file", "size", "sha256", right=("size",))
    for file in listing.files:
        shown.add_row(cell(file.name), size(file.size_bytes), file.sha256)
    stdout().print(shown)
    tell(f"published at {listing.uri}; loraloom artifacts get {listing.job_id} downloads it")


def get(
    job: JobArgument,
    folder: Annotated[
        Path | None, typer.Argument(help="Where to put it; must not exist. The job's id, if not given.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Download a job's published adapter. The folder appears once everything is there and verified."""
    from jobs.errors import LoraloomError
    from workers.publishing import published, write_file

    with service() as client:
        listing = client.artifacts(job)
        target = (folder if folder is not None else Path(listing.job_id)).absolute()
        try:
            with published(target, needed_bytes=listing.size_bytes) as temporary:
                for file in listing.files:
                    write_file(temporary / _safe(file.name), client.artifact_chunks(listing.job_id, file))
        except FileExistsError as error:
            raise LoraloomError(f"{target} exists already and is left as it is; name another folder") from error
        except OSError as error:
            raise LoraloomError(f"{target} cannot be written: {error.strerror or error}") from error
    if as_json:
        print_json({"folder": str(target), **listing.model_dump(mode="json")})
    else:
        print(target)
        tell(f"{len(listing.files)} files, {size(listing.size_bytes)}, each as it was published")


def verify(
    job: Annotated[str, typer.Argument(metavar="JOB|FOLDER", help="A job, or a folder that holds an adapter.")],
    as_json: AsJson = False,
) -> None:
    """Hash every file of a published adapter again, and compare: 1 if one is not what was published."""
    folder = Path(job)
    if (folder / _MANIFEST).is_file():
        found = _verify_folder(folder)
    else:
        with service() as client:
            found = _verify_job(client, client.artifacts(job))
    bad = [name for name, problem in found.items() if problem is not None]
    if as_json:
        files: list[dict[str, Any]] = [{"name": name, "problem": problem} for name, problem in found.items()]
        print_json({"ok": not bad, "files": files})
    else:
        for name, problem in found.items():
            print(f"{name}: {problem or 'ok'}")
    if bad:
        tell(f"{len(bad)} of {len(found)} files are not what was published", "bold red")
        raise typer.Exit(EXIT_FAILED)


def _verify_job(client: Client, listing: ArtifactListing) -> dict[str, str | None]:
    """What is wrong with each file, by its name."""
    from orchestrator.client import ServiceError, UnreachableError

    found: dict[str, str | None] = {}
    for file in listing.files:
        try:
            for _ in client.artifact_chunks(listing.job_id, file):
                pass
            found[file.name] = None
            if file.name == _MANIFEST and file.sha256 != listing.manifest_sha256:
                found[file.name] = "is not the manifest that the journal vouches for"
        except UnreachableError:
            raise
        except ServiceError as error:
            found[file.name] = str(error)
    return found


def _verify_folder(folder: Path) -> dict[str, str | None]:
    from jobs.errors import LoraloomError

    try:
        expected = dict(json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LoraloomError(f"{folder / _MANIFEST} cannot be read: {error}") from error
    found: dict[str, str | None] = {}
    for name, sha256 in expected.items():
        try:
            with (folder / _safe(str(name))).open("rb") as stream:
                actual = hashlib.file_digest(stream, "sha256").hexdigest()
            found[name] = None if actual == sha256 else f"is not what was written: its sha256 is {actual}"
        except OSError as error:
            found[name] = f"cannot be read: {error.strerror}"
    return found


def _safe(name: str) -> str:
    """A name that stays in its folder."""
    from jobs.errors import LoraloomError

    if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise LoraloomError(f"{name!r} is no name of a file")
    return name
