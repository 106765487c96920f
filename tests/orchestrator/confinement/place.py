"""A service with `--root`, what it may read and what it must not, and the three that look: service, checker, worker."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.file_rules import FileRules
from jobs.loading import LoadedSpec
from jobs.records import Assignment, BaseKey
from jobs.sources import SpecSource
from jobs.spec import JobSpec
from orchestrator.api.local_paths import LocalPaths
from workers.base_model import BaseModel
from workers.confinement import within
from workers.preflight import Preflight
from workers.worker import load_tokenised

SECRET = "the other team's row"
TEMPLATE = "{% for message in messages %}{{ message['content'] }}</s>{% endfor %}"


@dataclass
class Place:
    """A service that reads below `root`; what it must not read lies in `outside`, where it stands itself."""

    root: Path
    outside: Path
    own: Path
    rules: FileRules = field(init=False)

    def __post_init__(self) -> None:
        self.rules = self.paths.rules

    @property
    def paths(self) -> LocalPaths:
        return LocalPaths(own=self.own, roots=[self.root])

    def submitted(self, directory: Path | None = None, **blocks: Any) -> JobSpec:
        """As the service keeps it."""
        loaded = LoadedSpec(spec=self.spec(**blocks), source=SpecSource(file="f", lines={}))
        return self.paths.settle([loaded], directory=str(directory) if directory else None)[0]

    def spec(self, **blocks: Any) -> JobSpec:
        good = {
            "name": "job",
            "model": {"model_name_or_path": str(self.root / "base")},
            "datasets": [{"path": str(self.root / "rows.jsonl")}],
        }
        return JobSpec.model_validate(good | blocks)

    def checked(self, spec: JobSpec) -> list[str]:
        """What the checker has against it; nothing where it has read all."""
        with within(self.rules):
            estimate, problems = Preflight().check(spec)
        assert (estimate is None) == bool(problems)
        return [str(one) for one in problems]

    def trained_on(self, spec: JobSpec) -> int:
        """Rows that a worker has read, its base loaded, without having asked the checker.

        Raises:
            LoraloomError: It was refused.
        """
        assignment = Assignment(job_id="job", spec=spec, file_rules=self.rules)
        key = BaseKey(model_name_or_path=spec.model.model_name_or_path, revision=None, dtype="float32")
        with within(assignment.file_rules):
            BaseModel.load(key)
            return len(load_tokenised(spec, key).train)


def write_rows(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"prompt": "say:", "completion": text}) + "\n")
    return path


def data(path: object, **more: Any) -> dict[str, Any]:
    return {"datasets": [{"path": str(path), **more}]}


def model(path: object) -> dict[str, Any]:
    return {"model": {"model_name_or_path": str(path)}}


def template(place: Place, path: object) -> dict[str, Any]:
    chat = place.root / "chat.jsonl"
    chat.write_text(json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}))
    return {"model": model(place.root / "base")["model"] | {"chat_template_path": str(path)}, **data(chat)}
