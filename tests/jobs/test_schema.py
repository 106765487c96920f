import json
from pathlib import Path

import pytest
import yaml

import jobs
from jobs.catalogue import blocks
from jobs.loading import load_files
from jobs.schema import JobDocument, json_schema

EXAMPLES = sorted((Path(jobs.__file__).parent / "examples").glob("*.yaml"))


def validator():
    jsonschema = pytest.importorskip("jsonschema")
    return jsonschema.Draft202012Validator(json_schema())


def test_the_schema_is_valid_json_schema(recwarn: pytest.WarningsRecorder) -> None:
    schema = json_schema()
    assert list(recwarn) == []
    assert json.loads(json.dumps(schema)) == schema
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["title"] == "Loraloom job"
    validator().check_schema(schema)


def test_every_field_is_described_and_closed() -> None:
    schema = json_schema()
    definitions = [schema, *schema["$defs"].values()]
    for definition in definitions:
        assert definition["additionalProperties"] is False
        assert definition["description"]
        for name, field in definition["properties"].items():
            target = schema["$defs"].get(field.get("$ref", "").rpartition("/")[2], {})
            assert field.get("description") or target.get("description"), name
    assert sorted(schema["required"]) == ["datasets", "model", "name"]
    assert schema["$defs"]["LoraSpec"]["properties"]["r"]["default"] == 16
    assert schema["$defs"]["TrainingSpec"]["properties"]["learning_rate"]["exclusiveMinimum"] == 0


def test_the_schema_tells_good_documents_from_bad_ones() -> None:
    good = {"name": "a", "model": {"model_name_or_path": "b"}, "datasets": [{"path": "c"}]}
    check = validator()
    assert check.is_valid(good)
    assert check.is_valid(good | {"sweep": {"parameters": {"lora.r": {"values": [1]}}}})
    assert check.is_valid(good | {"lora": {"target_modules": ["a"]}, "val_size": 0.5, "report_to": "wandb"})
    for bad in (
        {"name": "A"},
        {"r": 1},
        {"lora": {"r": 0}},
        {"lora": {"target_modules": []}},
        {"datasets": []},
        {"val_size": -1},
        {"training": {"optim": "x"}},
        {"training": {"adam_beta1": 1}},
    ):
        assert not check.is_valid(good | bad), bad


def test_every_block_is_in_the_catalogue() -> None:
    known = blocks(JobDocument)
    assert known["datasets[]"] == known["eval_datasets[]"]
    assert known["sweep.parameters.*"] == ("values", "min", "max", "log")
    assert set(known) == {
        "",
        "model",
        "lora",
        "datasets[]",
        "eval_datasets[]",
        "training",
        "scheduling",
        "job_recovery",
        "output",
        "sweep",
        "sweep.metric",
        "sweep.parameters.*",
    }


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_shipped_examples_are_accepted(path: Path) -> None:
    loaded = load_files([path])
    assert loaded
    # Numbers such as 5e-4 are text for this loader, so only documents without them could be held to the schema.
    assert len(list(yaml.compose_all(path.read_text()))) <= len(loaded)


def test_the_first_example_comes_with_its_rows() -> None:
    (quickstart,) = load_files([path for path in EXAMPLES if path.stem == "quickstart"])
    spec = quickstart.spec
    assert spec.model.model_name_or_path == "HuggingFaceTB/SmolLM2-135M-Instruct"
    (dataset,) = spec.datasets
    rows = [json.loads(line) for line in (EXAMPLES[0].parent / dataset.path).read_text().splitlines()]
    assert len(rows) == 24
    assert all(row.keys() == {"prompt", "completion"} for row in rows)
    kinds = [row["completion"] for row in rows]
    assert {kind: kinds.count(kind) for kind in kinds} == {" billing": 8, " bug": 8, " feature": 8}
    assert len({row["prompt"] for row in rows}) == 24
    assert isinstance(spec.val_size, int)
    assert 0 < spec.val_size < len(rows)
