"""Which files of its own machine a service lets a spec name: never its own, and where it is told so, only some."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jobs.errors import Problem, SpecError
from jobs.loading import LoadedSpec, locate
from jobs.shown import shown_value
from jobs.spec import JobSpec

_FILE_ENDINGS = frozenset({".json", ".jsonl", ".csv", ".tsv", ".parquet", ".arrow", ".txt", ".jinja", ".gguf"})
_LOCAL_SCHEMES = ("file://", "local://")


@dataclass(frozen=True, kw_only=True)
class LocalPaths:
    """The rules."""

    own: Path
    """The service's data directory: journal, checkpoints and other people's adapters."""
    roots: Sequence[Path] | None
    """Folders that local files must lie in; `None` for anywhere else than `own`."""

    def settle(self, loaded: Sequence[LoadedSpec], *, directory: str | None) -> list[JobSpec]:
        """The specs with every local path made absolute.

        Args:
            loaded: As they were submitted.
            directory: Where the submitter stands; relative paths are below it.

        Raises:
            SpecError: A path is relative without a directory, or leads to where it may not.
        """
        problems: list[Problem] = []
        specs: list[JobSpec] = []
        for one in loaded:
            document: dict[str, Any] = one.spec.model_dump(mode="json")
            changed = False
            for place in _places(document):
                settled = self._settled(place.text, place.kind, directory)
                if isinstance(settled, Problem):
                    found = replace(settled, field=place.field, value=shown_value(place.text))
                    problems.append(locate(found, one))
                elif settled != place.text:
                    place.block[place.key] = settled
                    changed = True
            specs.append(JobSpec.model_validate(document) if changed else one.spec)
        if problems:
            raise SpecError(list(dict.fromkeys(problems))[:100])
        return specs

    def _settled(self, text: str, kind: str, directory: str | None) -> str | Problem:
        scheme = next((scheme for scheme in _LOCAL_SCHEMES if text.lower().startswith(scheme)), "")
        if "://" in text and not scheme:
            return text
        path = text[len(scheme) :]
        if not scheme and not _is_local(path, kind):
            if ".." in Path(path).parts:
                return Problem(message="leads out of where it begins; write an absolute path")
            return text
        if not os.path.isabs(path):
            if path.startswith("~"):
                return Problem(message="`~` means another folder to the service; write an absolute path")
            if directory is None:
                return Problem(
                    message="a relative path means nothing to the service; write an absolute one, or say with "
                    "`directory` what it is relative to, as the command line does"
                )
            path = os.path.join(directory, path)
        path = os.path.normpath(path)
        problem = self._refused(Path(path))
        return problem if problem is not None else f"{scheme}{path}"

    def _refused(self, path: Path) -> Problem | None:
        # Links are followed as far as they can be here; a worker on another node has its own look.
        real = Path(os.path.realpath(path))
        if _is_within(real, self.own) or _is_within(path, self.own):
            return Problem(message="lies in the service's own data directory; keep data and models elsewhere")
        if self.roots is not None and not any(_is_within(real, root) for root in self.roots):
            shown = ", ".join(map(str, self.roots))
            return Problem(message=f"lies outside of the folders that this service reads: {shown}")
        return None


@dataclass(frozen=True, kw_only=True)
class _Place:
    """A text of a document that may be a path."""

    field: str
    kind: str
    block: Any
    key: str | int

    @property
    def text(self) -> str:
        """The text."""
        return self.block[self.key]


def _places(document: dict[str, Any]) -> Iterator[_Place]:
    model, lora, output = document["model"], document["lora"], document["output"]
    for block, name, keys in (
        (model, "model", ("model_name_or_path", "chat_template_path")),
        (lora, "lora", ("parent", "init_from")),
    ):
        for key in keys:
            if block[key] is not None:
                yield _Place(field=f"{name}.{key}", kind="model", block=block, key=key)
    if output["uri"] is not None:
        yield _Place(field="output.uri", kind="output", block=output, key="uri")
    for name in ("datasets", "eval_datasets"):
        for index, dataset in enumerate(document[name]):
            yield _Place(field=f"{name}[{index}].path", kind="data", block=dataset, key="path")
            files = dataset["data_files"]
            if isinstance(files, str):
                yield _Place(field=f"{name}[{index}].data_files", kind="data", block=dataset, key="data_files")
            for number in range(len(files) if isinstance(files, list) else 0):
                yield _Place(field=f"{name}[{index}].data_files[{number}]", kind="data", block=files, key=number)


def _is_local(path: str, kind: str) -> bool:
    """Whether a path names something on this machine and not on the hub."""
    if os.path.isabs(path) or path.startswith((".", "~")):
        return True
    return kind == "output" or Path(path).suffix.lower() in _FILE_ENDINGS


def _is_within(path: Path, folder: Path) -> bool:
    return path == folder or folder in path.parents
