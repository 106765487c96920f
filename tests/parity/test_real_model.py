"""On the real model in float32 a job's first loss is that of the plain model on the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, PreTrainedModel

from jobs.records import Assignment, StepReport
from jobs.spec import JobSpec
from tests.real_inputs import data_file, require, smollm2_dir
from workers.base_model import load_tokenizer, read_blueprint
from workers.cursor import Cursor
from workers.dataset import Row, load_job_data
from workers.settings import WorkerSettings
from workers.worker import Worker

pytestmark = pytest.mark.real

TOLERANCE = 1e-5

JOBS = {
    "trec": ("trec-coarse.train.jsonl", {"r": 8, "target_modules": ["q_proj", "v_proj"]}, 4, 2),
    "spam": ("sms-spam.train.jsonl", {"r": 4, "lora_alpha": 64, "lora_dropout": 0.1}, 3, 1),
    "sarcasm": ("sarcasm.train.jsonl", {"r": 2, "target_modules": ["mlp.down_proj"], "use_rslora": True}, 2, 1),
}


def spec_of(name: str) -> JobSpec:
    file, lora, size, accumulation = JOBS[name]
    return JobSpec.model_validate(
        {
            "name": name,
            "model": {"model_name_or_path": str(smollm2_dir()), "dtype": "float32"},
            "lora": lora,
            "datasets": [{"path": str(data_file(file)), "max_samples": 40}],
            "training": {
                "per_device_train_batch_size": size,
                "gradient_accumulation_steps": accumulation,
                "max_steps": 1,
                "max_length": 128,
            },
        }
    )


def plain_loss(model: PreTrainedModel, rows: Sequence[Row]) -> float:
    """As transformers' own loss has it: padded rows, -100 where nothing is learned, the mean over label tokens."""
    longest = max(len(row.ids) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for number, row in enumerate(rows):
        length = len(row.ids)
        ids[number, :length], mask[number, :length] = torch.from_numpy(row.ids), 1
        labels[number, :length] = torch.where(torch.from_numpy(row.labelled), torch.from_numpy(row.ids), -100)
    with torch.no_grad():
        output = model(input_ids=ids, attention_mask=mask, labels=labels)
    shifted = F.cross_entropy(output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
    assert float(output.loss) == pytest.approx(float(shifted), rel=1e-6)
    return float(output.loss)


def test_the_first_loss_of_each_packed_job_is_the_plain_models_on_the_same_rows(tmp_path: Path) -> None:
    require()
    specs = [spec_of(name) for name in JOBS]
    key = read_blueprint(specs[0].model).key
    worker = Worker("worker-0", key, WorkerSettings(staging_dir=tmp_path))
    worker.load()
    assert worker.base.layout == "packed"
    worker.assign([Assignment(job_id=spec.name, spec=spec) for spec in specs])
    reports = []
    while not worker.is_idle:
        reports += worker.step()
    losses = {report.job_id: report.loss for report in reports if isinstance(report, StepReport)}
    assert losses.keys() == JOBS.keys()
    del worker

    model = AutoModelForCausalLM.from_pretrained(smollm2_dir(), dtype=torch.float32)
    for spec in specs:
        rows = load_job_data(spec, load_tokenizer(spec.model, key)).train
        batch = Cursor(num_rows=len(rows), training=spec.training).next_batch()
        positions = [position for micro_batch in batch for position in micro_batch]
        assert len(batch) == spec.training.gradient_accumulation_steps
        expected = plain_loss(model, [rows[position] for position in positions])
        assert abs(losses[spec.name] - expected) <= TOLERANCE * expected
