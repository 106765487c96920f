"""Point 5 of the numbers contract on real rows: alone = packed within three times what PEFT differs from itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from jobs.spec import JobSpec
from tests.models import Trained, make_worker, train
from tests.parity.oracle import Errors, OracleRun, compare, noise_floor, point_five, train_alone, worst
from tests.real_inputs import data_file, require, smollm2_dir
from workers.base_model import load_tokenizer, read_blueprint
from workers.dataset import load_job_data

pytestmark = [pytest.mark.real, pytest.mark.slow]

NUM_STEPS = 20
JOBS = {
    "trec": ("trec-coarse.train.jsonl", {"r": 8, "target_modules": ["q_proj", "v_proj"]}),
    "spam": ("sms-spam.train.jsonl", {"r": 4, "lora_alpha": 64}),
    "sarcasm": ("sarcasm.train.jsonl", {"r": 2, "target_modules": ["mlp.down_proj"]}),
}


def spec_of(name: str) -> JobSpec:
    """Twenty steps of two rows on the real base."""
    file, lora = JOBS[name]
    training = {"per_device_train_batch_size": 2, "max_steps": NUM_STEPS, "max_length": 128, "learning_rate": 1e-3}
    return JobSpec.model_validate(
        {
            "name": name,
            "model": {"model_name_or_path": str(smollm2_dir()), "dtype": "float32"},
            "lora": lora,
            "datasets": [{"path": str(data_file(file)), "max_samples": 80}],
            "training": training,
        }
    )


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def test_alone_and_packed_differ_by_no_more_than_peft_differs_from_itself(tmp_path: Path) -> None:
    require()
    specs = [spec_of(name) for name in JOBS]
    key = read_blueprint(specs[0].model).key
    data = {spec.name: load_job_data(spec, load_tokenizer(spec.model, key)) for spec in specs}
    model = AutoModelForCausalLM.from_pretrained(smollm2_dir(), dtype=torch.float32)

    def worked(folder: str, *some: JobSpec) -> Trained:
        plain = AutoModelForCausalLM.from_pretrained(smollm2_dir(), dtype=torch.float32)
        worker = make_worker(plain, data, tmp_path / folder)
        assert worker.base.layout == "packed"
        return train(worker, some)

    packed = worked("packed", *specs)
    floors: list[Errors] = []
    ours: list[Errors] = []
    for spec in specs:
        alone = worked(spec.name, spec)
        peft: dict[str, OracleRun] = {}
        for way, count, row_by_row in (("padded", 1, False), ("two threads", 2, False), ("unpadded", 1, True)):
            with threads(count):
                peft[way] = train_alone(
                    model,
                    spec,
                    data[spec.name].train,
                    packed.initial[spec.name],
                    num_steps=NUM_STEPS,
                    row_by_row=row_by_row,
                )
        floors += [noise_floor(peft["padded"], peft[way]) for way in ("two threads", "unpadded")]
        as_oracle = OracleRun(
            losses=alone.losses(spec.name), grad_norms=[], learning_rates=[], final=alone.final(spec.name)
        )
        ours.append(compare(packed.losses(spec.name), packed.final(spec.name), as_oracle))
        ours.append(compare(packed.losses(spec.name), packed.final(spec.name), peft["padded"]))
        print(f"{spec.name}: PEFT from itself {floors[-2:]}; packed from alone and from PEFT {ours[-2:]}")
    bound, found = point_five(torch.float32, floors), worst(ours)
    assert found.loss <= bound.loss
    assert found.adapter <= bound.adapter
