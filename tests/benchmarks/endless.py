"""Jobs on the real model that train for as long as a benchmark of the service or of a run looks on."""

from __future__ import annotations

import yaml

from tests.real_inputs import data_file, smollm2_dir


def endless_jobs(count: int, *, save_steps: int, logging_steps: int) -> str:
    """A spec file of so many, one row a micro-batch, r = 8 on all linears; `tests.real_inputs.require` comes first."""
    return yaml.safe_dump_all(
        {
            "name": f"job-{number}",
            "model": {"model_name_or_path": str(smollm2_dir()), "dtype": "float32"},
            "lora": {"r": 8, "target_modules": "all-linear"},
            "datasets": [{"path": str(data_file("trec-coarse.train.jsonl"))}],
            "training": {
                "max_steps": 1_000_000,
                "per_device_train_batch_size": 1,
                "save_steps": save_steps,
                "logging_steps": logging_steps,
                "seed": number,
            },
        }
        for number in range(count)
    )
