"""No name in a spec leads outside of `--root`: in the service, in the checker and in the worker."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Any

import pytest

from jobs.errors import LoraloomError, SpecError
from jobs.records import BaseKey
from tests.orchestrator.confinement.place import SECRET, Place, data, model, template, write_rows
from workers.confinement import within
from workers.worker import load_tokenised

NAMES: dict[str, Callable[[Place], dict[str, Any]]] = {
    "a relative file": lambda at: data("rows.jsonl"),
    "a relative folder that looks like a hub name": lambda at: data("org/set"),
    "a relative folder of one part": lambda at: data("set"),
    "a deep relative folder": lambda at: data("org/set/x/.."),
    "an absolute file": lambda at: data(at.outside / "rows.jsonl"),
    "an absolute folder": lambda at: data(at.outside / "set"),
    "the service's own data": lambda at: data(at.own / "rows.jsonl"),
    "up and down again": lambda at: data(f"{at.root}/../other/rows.jsonl"),
    "up, written with percent signs": lambda at: data(f"file://{at.root}/%2e%2e/other/rows.jsonl"),
    "a URL of a file": lambda at: data(f"file://{at.outside}/rows.jsonl"),
    "a URL in another case": lambda at: data(f"FILE://{at.outside}/rows.jsonl"),
    "a URL of this machine": lambda at: data(f"local://{at.outside}/rows.jsonl"),
    "a chain of file systems": lambda at: data(f"simplecache::file://{at.outside}/rows.jsonl"),
    "what looks like a URL further on": lambda at: data(f"{at.outside}/x://../rows.jsonl"),
    "relative data_files": lambda at: data("json", data_files="rows.jsonl"),
    "relative data_files without an ending": lambda at: data("json", data_files=["set/train"]),
    "absolute data_files": lambda at: data("json", data_files=str(at.outside / "rows.jsonl")),
    "data_files by a pattern that climbs": lambda at: data("json", data_files=f"{at.root}/*/../../other/*.jsonl"),
    "data_files by a pattern from above": lambda at: data("json", data_files=f"{at.root.parent}/*/rows.jsonl"),
    "absolute data_files of a hub set": lambda at: data("org/hub", data_files=str(at.outside / "rows.jsonl")),
    "climbing data_files of a hub set": lambda at: data("org/hub", data_files="../../rows.jsonl"),
    "climbing data_files of a folder": lambda at: data(at.root, data_files="../other/rows.jsonl"),
    "a file of another process": lambda at: data("text", data_files="/proc/self/environ"),
    "a descriptor": lambda at: data("json", data_files="/dev/fd/0"),
    "a way around through /proc": lambda at: data(f"/proc/self/root{at.outside}/rows.jsonl"),
    "a way around through the working directory": lambda at: data("/proc/self/cwd/rows.jsonl"),
    "evaluation rows": lambda at: {"eval_datasets": [{"path": str(at.outside / "rows.jsonl")}]},
    "a relative base that looks like a hub name": lambda at: model("org/base"),
    "a relative base of one part": lambda at: model("base"),
    "an absolute base": lambda at: model(at.outside / "base"),
    "a template by a relative name": lambda at: template(at, "template.jinja"),
    "a template's folder by a relative name": lambda at: template(at, "templates"),
    "an absolute template": lambda at: template(at, at.outside / "template.jinja"),
}


@pytest.mark.parametrize("attempt", NAMES)
def test_no_name_leads_out_of_the_roots_in_the_service_the_checker_or_the_worker(place: Place, attempt: str) -> None:
    blocks = NAMES[attempt](place)
    spec = place.spec(**blocks)
    try:
        settled = place.submitted(**blocks)
    except SpecError as error:
        refused = str(error)
        assert SECRET not in refused
    else:
        # A name that can be one on the hub is one, and a percent sign is a percent sign.
        assert settled == spec or "%2e%2e" in settled.datasets[0].path
        assert attempt.startswith(("a relative folder", "a relative base", "a template's folder", "up, written"))
    # As if the service had let it pass.
    problems = place.checked(spec)
    assert problems
    assert SECRET not in "".join(problems)
    with pytest.raises((LoraloomError, ValueError)) as caught:
        place.trained_on(spec)
    assert SECRET not in str(caught.value)


def test_a_name_is_decided_where_it_is_submitted_and_kept_as_decided(place: Place) -> None:
    write_rows(place.root / "org/set/train.jsonl", "ours")
    # Where the submitter stands there is such a folder, which may be read.
    spec = place.submitted(directory=place.root, **data("org/set"))
    assert spec.datasets[0].path == str(place.root / "org/set")
    assert place.checked(spec) == []
    # It is gone: the name does not become one on the hub, nor one of the working directory.
    shutil.rmtree(place.root / "org")
    assert str(place.root / "org/set") in place.checked(spec)[0]
    # A hub name stays one, whoever makes a folder of that name meanwhile.
    spec = place.submitted(directory=place.root, **data("org/set"))
    assert spec.datasets[0].path == "org/set"
    write_rows(place.root / "org/set/train.jsonl", "ours")
    os.chdir(place.root)
    [problem] = place.checked(spec)
    assert "taken for a name on the hub" in problem


def test_a_refusal_names_rule_and_fix_and_not_whether_there_is_such_a_file(place: Place) -> None:
    told = []
    for name in ("rows.jsonl", "nope.jsonl"):
        path = place.outside / name
        with pytest.raises(SpecError) as caught:
            place.submitted(**data(path))
        told.append((str(caught.value) + str(place.checked(place.spec(**data(path))))).replace(name[:4], "NAME"))
    assert told[0] == told[1]
    assert f"reads: {place.root}" in told[0]
    assert "move it there" in told[0]


def test_rules_travel_with_a_job_and_hold_for_its_worker_alone(place: Place) -> None:
    spec = place.spec(**data(place.outside / "rows.jsonl"))
    key = BaseKey(model_name_or_path=str(place.root / "base"), revision=None, dtype="float32")
    with within(place.rules), pytest.raises(LoraloomError, match="outside of the folders"):
        load_tokenised(spec, key)
    # On one's own machine, as `loraloom run` does, everything that one can read is read.
    assert len(load_tokenised(spec, key).train) == 1
