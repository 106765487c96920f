"""Formats of data files, told by the ending of a name. One table, for the schema and for the readers."""

from __future__ import annotations

from pathlib import PurePath

BUILDERS = ("json", "csv", "parquet", "arrow", "text")
"""Names that `datasets.load_dataset` knows as builders: `path: csv` reads the files of `data_files` as csv."""
FORMAT_BY_ENDING = {
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".txt": "text",
}
"""The builder that reads files of this ending."""
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
"""Endings after the one of the format: `rows.jsonl.gz`."""


def split_ending(name: str) -> tuple[str, str]:
    """The endings for format and compression in lower case, each empty where there is none: `.jsonl`, `.gz`."""
    path = PurePath(name)
    last = path.suffix.lower()
    if last in COMPRESSIONS:
        return PurePath(path.stem).suffix.lower(), last
    return last, ""


def builder_of(name: str) -> str | None:
    """The builder that reads a file of this name, or `None` where the ending tells nothing."""
    return FORMAT_BY_ENDING.get(split_ending(name)[0])
