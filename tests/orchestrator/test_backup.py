"""What the operators' page says of backups, done: a journal saved while the service trains, and a service from it."""

from __future__ import annotations

import re
import shutil
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from jobs.artifacts import verify
from jobs.records import JobState
from tests.orchestrator.conftest import WriteSpecs
from tests.orchestrator.served import Served, reasons, states

PAGE = Path(__file__).parents[2] / "orchestrator/deploy/README.md"


@pytest.mark.slow
def test_from_a_backup_finished_jobs_are_as_they_were_and_the_others_are_trained(
    write_specs: WriteSpecs, tmp_path: Path
) -> None:
    [statement] = re.findall(r'journal\.db "(VACUUM INTO \'[^\']+\')"', PAGE.read_text(encoding="utf-8"))
    saved = tmp_path / "backup"
    saved.mkdir()
    data = tmp_path / "data"
    served = Served(data, "--in-process")
    try:
        client = served.start()
        training = {"max_steps": 400, "save_steps": 20, "logging_steps": 100}
        specs = write_specs({"name": "done"}, {"name": "going-on", "training": training})
        client.submit(specs.read_text(), key="first")
        served.until(lambda: states(client)["done"] is JobState.SUCCEEDED, "one is done")
        served.until(lambda: client.checkpoints("going-on").checkpoints, "the other one has been saved")
        with closing(sqlite3.connect(data / "journal.db")) as connection:
            connection.execute(re.sub(r"'.*'", f"'{saved / 'journal.db'}'", statement))
        shutil.copytree(data / "artifacts", saved / "artifacts", ignore=shutil.ignore_patterns(".staging"))
        served.end(signal.SIGKILL)
        data.rename(tmp_path / "lost")
        shutil.copytree(saved, data)
        client = served.start()
        served.until(lambda: states(client)["going-on"] is JobState.SUCCEEDED, "the other one is trained")
        assert states(client) == {"done": JobState.SUCCEEDED, "going-on": JobState.SUCCEEDED}
        # Its checkpoints were not saved with the journal: it has begun anew, and says so.
        told = [event.message for event in client.events("going-on")]
        assert "checkpoint_bad" in reasons(client, "going-on") or any("checkpoint" in message for message in told), told
        for job in ("done", "going-on"):
            verify(data / "artifacts" / job)
            assert client.artifacts(job).files
        # The key of a submission before the backup is still known.
        assert [job.id for job in client.submit(specs.read_text(), key="first").jobs] == ["done", "going-on"]
    finally:
        served.close()
