from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from jobs.errors import SpecError
from jobs.loading import LoadedSpec
from jobs.records import JobProgress
from jobs.sources import SpecSource
from jobs.spec import JobSpec
from orchestrator.api.limits import Limits
from orchestrator.api.local_paths import LocalPaths
from tests.jobs.test_hostile import test_bombs_are_refused_at_once_in_little_memory as bombs
from tests.jobs.texts import MINIMAL
from tests.orchestrator.api.conftest import Serve, Served, spec

YAML = {"Content-Type": "application/yaml"}
DIRECTORY = {"directory": "/data"}
CORPUS = [
    "", "\0", "\ufeff", "%", "---", "- - -", "null", "[]", "{}", "[[]]", '"a"', "a: *b", "!!python/object:os.system x",
    "name: ../../etc/passwd", "name: %2e%2e", "name: a\nname: b", "name: a\n\tb: c", "? [a]\n: b", "a: !!binary x",
    "name: a\nmodel: {model_name_or_path: x, trust_remote_code: true}\ndatasets: [{path: /x.jsonl}]",
    "{" * 1000, '{"a":' * 1000, '{"name": "\\ud800"}', "name: \u202e", "\x85", "a: " + "9" * 5000, "a: 1e99999",
    MINIMAL + "labels: {a: <script>}", MINIMAL + "lora: {target_modules: ['(a+)+$']}",
]  # fmt: skip


def test_yaml_with_several_documents_and_a_sweep(served: Served) -> None:
    text = MINIMAL + "sweep: {parameters: {lora.r: {values: [4, 8, 16]}}}\n---\n" + MINIMAL.replace("first", "second")
    with served.http() as http:
        answer = http.post("/jobs", content=text, headers=YAML, params=DIRECTORY)
        assert answer.status_code == 201, answer.text
        jobs = answer.json()["jobs"]
        assert [job["id"] for job in jobs] == ["first-001", "first-002", "first-003", "second"]
        sweeps = {job["sweep_id"] for job in jobs[:3]}
        assert len(sweeps) == 1
        assert jobs[3]["sweep_id"] is None
        assert served.woken
        sweep = http.get(f"/sweeps/{sweeps.pop()}").json()
        assert sweep["varies"] == ["lora.r"]
        assert [job["values"]["lora.r"] for job in sweep["jobs"]] == [4, 8, 16]
        assert sweep["states"] == {"PENDING": 3}
        assert (sweep["metric"], sweep["goal"], sweep["best"]) == ("train_loss", "minimize", None)
        assert http.get("/sweeps/none").status_code == 404


@pytest.mark.parametrize(
    ("metric", "goal", "best"),
    [
        ("", "minimize", "first-002"),
        ("metric: {name: eval_loss}, ", "minimize", "first-002"),
        ("metric: {name: eval_exact_match}, ", "maximize", "first-003"),
        ("metric: {name: train_loss, goal: maximize}, ", "maximize", "first-001"),
    ],
)
def test_a_sweep_is_compared_by_what_it_names(served: Served, metric: str, goal: str, best: str) -> None:
    text = MINIMAL + f"sweep: {{{metric}parameters: {{lora.r: {{values: [4, 8, 16, 32]}}}}}}\n"
    reached = {"first-001": (0.9, 0.3, 0.1), "first-002": (0.5, 0.2, 0.4), "first-003": (0.7, 0.25, 0.8)}
    with served.http() as http:
        submitted = http.post("/jobs", content=text, headers=YAML, params=DIRECTORY).json()
        [sweep] = {job["sweep_id"] for job in submitted["jobs"]}
        served.journal.record_progress(
            {
                job: JobProgress(train_loss=train, eval_loss=loss, eval_exact_match=exact)
                for job, (train, loss, exact) in reached.items()
            }
        )
        found = http.get(f"/sweeps/{sweep}").json()
    assert (found["goal"], found["best"]) == (goal, best)
    assert found["varies"] == ["lora.r"]


def test_json_one_or_a_list(served: Served) -> None:
    with served.http() as http:
        assert [job["id"] for job in http.post("/jobs", json=spec("a")).json()["jobs"]] == ["a"]
        assert [job["id"] for job in http.post("/jobs", json=[spec("b"), spec("c")]).json()["jobs"]] == ["b", "c"]
        assert [job["id"] for job in http.post("/jobs", json=spec("a")).json()["jobs"]] == ["a.2"]


def test_problems_name_line_field_and_value(served: Served) -> None:
    text = MINIMAL + "lora: {r: 0}\ntraining:\n  learning_rate: fast\n"
    with served.http() as http:
        for path in ("/jobs", "/jobs:validate"):
            answer = http.post(path, content=text, headers=YAML, params=DIRECTORY)
            assert answer.status_code == 422
            document = answer.json()
            assert document["type"] == "urn:loraloom:problem:invalid-spec"
            found = [(one["line"], one["field"]) for one in document["errors"]]
            assert found == [(5, "lora.r"), (7, "training.learning_rate")]
            assert "file" not in document["errors"][0]
        listed = json.dumps([spec("a"), spec("b", lora={"r": 0})], indent=1)
        answer = http.post("/jobs", content=listed, headers={"Content-Type": "application/json"})
        [one] = answer.json()["errors"]
        assert listed.splitlines()[one["line"] - 1].strip() == '"r": 0'
        assert http.get("/jobs").json()["jobs"] == []
    assert not served.woken


def test_set_overrides_a_field_of_every_job(served: Served) -> None:
    with served.http() as http:
        answer = http.post("/jobs:validate", json=[spec("a"), spec("b")], params={"set": ["lora.r=3", "val_size=5"]})
        assert [(one["lora"]["r"], one["val_size"]) for one in answer.json()["specs"]] == [(3, 5), (3, 5)]
        wrong = http.post("/jobs", json=spec("a"), params={"set": "lora.rr=3"})
        assert wrong.status_code == 422
        assert "did you mean" in wrong.text


def test_paths_are_below_the_submitters_directory_and_never_in_the_services_own(serve: Serve, tmp_path: Path) -> None:
    served = serve(roots=[tmp_path / "data", Path("/data")])
    (tmp_path / "data/sub").mkdir(exist_ok=True)

    def refused(field: str, value: object, **params: str) -> str:
        changed = spec("x")
        block, _, key = field.rpartition(".")
        if block == "datasets":
            changed["datasets"] = [{"path": "/data/r.jsonl", key: value}]
        else:
            changed[block] = {**changed.get(block, {}), key: value}
        with served.http() as http:
            answer = http.post("/jobs:validate", json=changed, params=params)
        return "" if answer.status_code == 200 else answer.text

    with served.http() as http:
        answer = http.post(
            "/jobs:validate", json=spec(datasets=[{"path": "below/r.jsonl"}, {"path": "org/set"}]), params=DIRECTORY
        )
        paths = [one["path"] for one in answer.json()["specs"][0]["datasets"]]
        assert paths == ["/data/below/r.jsonl", "org/set"]
    assert "relative path means nothing" in refused("datasets.path", "r.jsonl")
    assert "outside of the folders" in refused("datasets.path", "../etc/r.jsonl", directory="/data")
    assert "outside of the folders" in refused("datasets.path", "/etc/passwd.txt")
    assert "outside of the folders" in refused("model.model_name_or_path", "/etc")
    assert "leads out" in refused("model.model_name_or_path", "a/../../etc")
    assert "another folder" in refused("datasets.path", "~/r.jsonl", directory="/data")
    assert "own data directory" in refused("datasets.path", str(served.data_dir / "x.jsonl"))
    link = tmp_path / "data" / "link.jsonl"
    link.symlink_to("/etc/passwd")
    assert refused("datasets.path", str(link))
    assert refused("model.model_name_or_path", "org/base") == ""
    assert refused("datasets.path", "/data/r.jsonl") == ""


@pytest.mark.parametrize(
    "uri, told",
    [
        ("/srv/data/artifacts", "own data directory"),
        ("file:///srv/data/x", "own data directory"),
        ("file:///srv/data/../data/x", "own data directory"),
        ("relative", "relative path"),
        ("/etc", "outside of the folders"),
        ("s3://bucket/x", None),
        ("/out/x", None),
    ],
)
def test_where_an_adapter_may_go(uri: str, told: str | None) -> None:
    rules = LocalPaths(own=Path("/srv/data"), roots=[Path("/out"), Path("/data")])
    loaded = LoadedSpec(
        spec=JobSpec.model_validate(spec(output={"uri": uri})), source=SpecSource(file="f", lines={"output": 7})
    )
    if told is None:
        assert rules.settle([loaded], directory=None)[0].output.uri == uri
        return
    with pytest.raises(SpecError, match=told) as caught:
        rules.settle([loaded], directory=None)
    assert (caught.value.problems[0].field, caught.value.problems[0].line) == ("output.uri", 7)


def test_the_same_key_is_the_same_submission(served: Served) -> None:
    with served.http(headers={"Idempotency-Key": "k-1"}) as http:
        first = http.post("/jobs", json=[spec("a"), spec("b")])
        again = http.post("/jobs", json=[spec("a"), spec("b")])
        assert first.status_code == again.status_code == 201
        assert first.json() == again.json()
        assert again.headers["idempotent-replayed"] == "true"
        other = http.post("/jobs", json=[spec("a")])
        assert other.status_code == 422
        assert other.json()["type"].endswith("key-conflict")
        assert http.post("/jobs", json=[spec("a"), spec("b")], params={"set": "lora.r=3"}).status_code == 422
        assert len(http.get("/jobs").json()["jobs"]) == 2
        assert http.post("/jobs", json=spec("c"), headers={"Idempotency-Key": ""}).status_code == 422


def test_many_at_once_with_one_key_are_one_submission(served: Served) -> None:
    answers: list[tuple[int, str]] = []
    barrier = threading.Barrier(12)

    def post(number: int) -> None:
        with served.http() as http:
            barrier.wait(timeout=30)
            answer = http.post("/jobs", json=spec(f"job-{number % 2}"), headers={"Idempotency-Key": f"k{number % 2}"})
            answers.append((answer.status_code, answer.json()["jobs"][0]["id"]))

    threads = [threading.Thread(target=post, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert sorted(answers) == [(201, "job-0")] * 6 + [(201, "job-1")] * 6
    assert [job.id for job in served.journal.jobs()] in (["job-0", "job-1"], ["job-1", "job-0"])


def test_bodies_and_sweeps_have_caps(serve: Serve) -> None:
    served = serve(limits=Limits(body_bytes=2000, jobs_per_request=3))
    with served.http() as http:
        assert http.post("/jobs", content="#" * 2001, headers=YAML).status_code == 413
        assert http.post("/jobs", content=iter([b"#" * 1500] * 9), headers=YAML).status_code == 413
        assert http.post("/jobs", content=iter([b"#" * 500] * 2), headers=YAML).status_code == 422
        swept = spec(sweep={"parameters": {"lora.r": {"values": [1, 2, 3, 4]}}})
        answer = http.post("/jobs", json=swept)
        assert answer.status_code == 422
        assert answer.json()["type"].endswith("too-many-jobs")
        assert http.get("/jobs").json()["jobs"] == []


def test_a_body_that_does_not_arrive_is_given_up(serve: Serve) -> None:
    import socket

    served = serve(limits=Limits(body_seconds=0.2))
    with socket.create_connection((served.server.host, served.server.port), timeout=30) as connection:
        connection.sendall(b"POST /api/v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nname")
        assert b" 408 " in connection.recv(65536)


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data"])
def test_what_a_form_can_send_is_no_spec(served: Served, kind: str) -> None:
    with served.http() as http:
        assert http.post("/jobs", content=MINIMAL, headers={"Content-Type": kind}).status_code == 415


def test_the_hostile_corpus_is_answered(served: Served) -> None:
    texts = [one[1] for one in bombs.pytestmark[0].args[1]]
    with served.http() as http:
        for text in [*texts, *CORPUS]:
            for kind in ("application/yaml", "application/json"):
                content = text.encode("utf-8", "surrogatepass")
                answer = http.post("/jobs", content=content, headers={"Content-Type": kind})
                assert answer.status_code in (413, 422), (kind, text[:80], answer.text[:200])
                assert answer.headers["content-type"] == "application/problem+json"
                assert len(answer.json().get("errors", [])) <= 101
        for content in (b"\xff\xfe", b"name: \xc3\x28", bytes(range(256))):
            assert http.post("/jobs", content=content, headers=YAML).status_code == 422
        assert http.get("/jobs").json()["jobs"] == []
