"""Whatever the OpenAPI document allows, and much that it does not, is answered as it says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from orchestrator.api.limits import Limits
from tests.orchestrator.api.conftest import Serve, spec

CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance,
    response_headers_conformance,
]  # fmt: skip


@settings(
    max_examples=12,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def _check(case: schemathesis.Case) -> None:
    case.call_and_validate(checks=CHECKS, timeout=30)


def test_no_request_makes_an_error_of_the_server(serve: Serve) -> None:
    served = serve(limits=Limits(stream_seconds=0.05))
    with served.http() as http:
        http.post("/jobs", json=[spec(name) for name in ("0", "a", "job")])
    served.publish("a", served.run("a"), {"manifest.json": b"{}"})
    schema = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    count = 0
    for result in schema.get_all_operations():
        operation = result.ok()
        for mode in GenerationMode.POSITIVE, GenerationMode.NEGATIVE:
            try:
                given(case=operation.as_strategy(generation_mode=mode))(_check)()
            except Unsatisfiable:
                # There is nothing that could be wrong.
                assert mode is GenerationMode.NEGATIVE
        count += 1
    assert count >= 24
    with served.http() as http:
        assert http.get(served.url + "/readyz").status_code == 200


def test_the_service_needs_neither_torch_nor_ray(tmp_path: Path) -> None:
    text = """
import json, sys
from pathlib import Path
import httpx
from orchestrator.api.app import build_app
from orchestrator.api.server import HttpServer
from orchestrator.client import Client
from orchestrator.journal import Journal
folder = Path(sys.argv[1])
journal = Journal(folder / "journal.db")
with HttpServer(build_app(journal, lambda: None, data_dir=folder), port=0) as server, Client(server.url) as client:
    client.submit({"name": "a", "model": {"model_name_or_path": "x/y"}, "datasets": [{"path": "/r.jsonl"}]})
    client.cancel("a")
    client.cluster(), list(client.jobs()), client.log("a")
    httpx.get(server.url + "/openapi.json"), httpx.get(server.url + "/metrics")
heavy = ("torch", "transformers", "ray", "datasets", "safetensors", "numpy", "peft", "matplotlib", "fsspec")
print(json.dumps([name for name in heavy if name in sys.modules]))
"""
    done = subprocess.run(
        [sys.executable, "-c", text, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


def test_the_command_line_needs_neither_a_server_nor_a_spec() -> None:
    text = """
import sys
import orchestrator.cli, orchestrator.client
heavy = ("torch", "transformers", "ray", "datasets", "numpy", "fastapi", "uvicorn", "sqlalchemy", "jobs.spec", "yaml")
print([name for name in heavy if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["JobDocument", "ProblemDocument", "JobPage", "ClusterView"])
def test_schemas_are_in_the_document(serve: Serve, name: str) -> None:
    served = serve()
    with served.http() as http:
        document = http.get(served.url + "/openapi.json").json()
    assert name in document["components"]["schemas"]
    assert "HTTPValidationError" not in document["components"]["schemas"]
    assert "/api/v1/jobs:validate" in document["paths"]
