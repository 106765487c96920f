"""The finished adapter as a folder that PEFT opens: weights, config, model card, manifest with hashes.

Byte-stable: equal weights and spec give equal files, but for the manifest's `ledger`, which tells times.
Written into a staging folder; publishing it is the scheduler's.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jobs.artifacts import MANIFEST
from jobs.ledger import Ledger
from jobs.records import BaseKey, EvalReport, StepReport
from jobs.spec import JobSpec
from workers.adapter import Adapter
from workers.publishing import published, write_file
from workers.structure import LinearShape
from workers.target_names import matches
from workers.targets import Target
from workers.tensor_file import encode

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
CARD = "README.md"

_VLLM_MODELS = frozenset(
    {"cohere", "exaone", "gemma", "gemma2", "gemma3_text", "glm", "glm4", "gpt_oss", "granite", "granitemoe", "llama"}
    | {"mistral", "mixtral", "nemotron", "phi", "phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe"}
)
"""Kinds of models (`model_type` in config.json) that vLLM's table of supported models marks as taking LoRA adapters."""
_VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values that `vllm serve --max-lora-rank` takes."""


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where an adapter comes from and how well it does; goes into manifest and model card."""

    job_id: str
    spec: JobSpec
    base: BaseKey
    model_type: str
    """Of the base, as its config.json has it."""
    base_fingerprint: str
    train_fingerprint: str
    eval_fingerprint: str | None
    num_threads: int
    last_step: StepReport | None
    first_eval: EvalReport | None
    last_eval: EvalReport | None
    best_metric: float | None
    """Lowest loss of all evaluations."""
    best_step: int | None
    ledger: Ledger
    """What it has cost, this attempt included."""


def export(
    adapter: Adapter,
    shapes: Mapping[str, LinearShape],
    source: Provenance,
    folder: Path,
    *,
    beside_text: Iterable[str] = (),
) -> None:
    """Write all files of an artifact into a new folder, which appears whole and durable or not at all.

    Args:
        adapter: The trained factors.
        shapes: The base's linears, which say whether weights are transposed (Conv1D).
        source: What to state beside the weights.
        folder: Must not exist.
        beside_text: Linears of the base that carry no adapter.

    Raises:
        DiskFullError: No room.
        OSError: The disk refuses otherwise.
    """
    lora = source.spec.lora
    reference = lora.lora_alpha / math.sqrt(lora.r) if lora.use_rslora else lora.lora_alpha / lora.r
    tensors = {}
    for name, factors in adapter.factors.items():
        # One scale for all modules, the differences folded into B: vLLM ignores rank and alpha patterns.
        fold = 1.0 if factors.scale == reference else factors.scale / reference
        tensors[f"base_model.model.{name}.lora_A.weight"] = factors.a_RI.detach().cpu().contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = (factors.b_OR.detach() * fold).cpu().contiguous()
    # Configuration, card and manifest are a few KB; the weights are what needs room.
    with published(folder, needed_bytes=sum(tensor.nbytes for tensor in tensors.values()) + 2**16) as temporary:
        files = {
            WEIGHTS: write_file(temporary / WEIGHTS, encode(tensors)),
            CONFIG: write_file(
                temporary / CONFIG,
                [_json(peft_config(source.spec, source.base, adapter.targets, shapes, beside_text=beside_text))],
            ),
            CARD: write_file(temporary / CARD, [_card(source, adapter).encode()]),
        }
        hashes = {name: entry.sha256 for name, entry in files.items()}
        write_file(temporary / MANIFEST, [_json(_manifest(source, hashes, adapter))])


def peft_config(
    spec: JobSpec,
    base: BaseKey,
    targets: Mapping[str, Target],
    shapes: Mapping[str, LinearShape],
    *,
    beside_text: Iterable[str] = (),
) -> dict[str, Any]:
    """The `LoraConfig` that PEFT rebuilds the adapter from.

    Target names are those of the spec where they mean the same to PEFT, full module names where globs, exclusions or
    patterns were used. Pattern keys are regular expressions there, hence escaped full names here.
    """
    lora = spec.lora
    plain = not isinstance(lora.target_modules, str) and not lora.exclude_modules
    entries = list(lora.target_modules) if plain else []
    # PEFT would put factors of its own on every other linear that a short name fits.
    too_wide = any(matches(name, entry) for name in beside_text for entry in entries)
    if not plain or too_wide or any(set(entry) & set("*?[") for entry in entries):
        entries = list(targets)
    odd = {name: target for name, target in targets.items() if target.r != lora.r}
    # Scale in PEFT is alpha/rank of the module; chosen so that it is the same everywhere (see `export`).
    ratio = {name: target.r / lora.r for name, target in odd.items()}
    if lora.use_rslora:
        ratio = {name: math.sqrt(value) for name, value in ratio.items()}
    return {
        "alpha_pattern": {re.escape(name): lora.lora_alpha * ratio[name] for name in sorted(odd)},
        "auto_mapping": None,
        "base_model_name_or_path": base.model_name_or_path,
        "bias": "none",
        "fan_in_fan_out": any(shapes[name].is_conv1d for name in targets),
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": lora.lora_alpha,
        "lora_dropout": lora.lora_dropout,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": lora.r,
        "rank_pattern": {re.escape(name): target.r for name, target in sorted(odd.items())},
        "revision": base.revision,
        "target_modules": sorted(entries),
        "task_type": spec.task_type,
        "use_dora": False,
        "use_rslora": lora.use_rslora,
    }


def _manifest(source: Provenance, hashes: Mapping[str, str], adapter: Adapter) -> dict[str, Any]:
    return {
        "format": 1,
        "job": {"id": source.job_id, "name": source.spec.name},
        "spec": source.spec.model_dump(mode="json"),
        "spec_sha256": source.spec.spec_sha256(),
        "base": {
            "model_name_or_path": source.base.model_name_or_path,
            "revision": source.base.revision,
            "dtype": source.base.dtype,
            "weights_sha256": source.base_fingerprint,
        },
        "data": {"train_sha256": source.train_fingerprint, "eval_sha256": source.eval_fingerprint},
        "trainable_parameters": adapter.num_parameters,
        "vllm_command": vllm_command(source, adapter.targets),
        "metrics": metrics(source),
        "ledger": source.ledger.figures(at=0.0),
        "num_threads": source.num_threads,
        "versions": dict(_versions()),
        "files": dict(hashes),
    }


@cache
def _versions() -> Mapping[str, str]:
    """Read once: looking one up parses all that a package says of itself."""
    return {name: version(name) for name in ("loraloom", "torch", "transformers", "datasets", "safetensors")}


def metrics(source: Provenance) -> dict[str, float | int]:
    """Final figures, those that no clock has a part in."""
    found: dict[str, float | int] = {}
    if source.last_step is not None:
        found |= {"step": source.last_step.step, "train_loss": source.last_step.loss}
    if source.first_eval is not None:
        found["eval_loss_before"] = source.first_eval.loss
        found["eval_exact_match_before"] = source.first_eval.exact_match
    if source.last_eval is not None:
        found |= {"eval_loss": source.last_eval.loss, "eval_exact_match": source.last_eval.exact_match}
    if source.best_metric is not None and source.best_step is not None:
        found |= {"eval_loss_best": source.best_metric, "eval_loss_best_step": source.best_step}
    return found


def vllm_command(source: Provenance, targets: Mapping[str, Target]) -> str | None:
    """The command that serves the adapter beside its base, or `None` where vLLM is not known to take it."""
    if why_not_vllm(source, targets):
        return None
    needed = max(target.r for target in targets.values())
    rank = next(allowed for allowed in _VLLM_RANKS if allowed >= needed)
    base = source.base.model_name_or_path
    return f"vllm serve {base} --enable-lora --max-lora-rank {rank} --lora-modules {source.spec.name}=$PWD"


def why_not_vllm(source: Provenance, targets: Mapping[str, Target]) -> str | None:
    """Why vLLM is not said to serve the adapter unmerged, or `None` where it does."""
    if source.model_type not in _VLLM_MODELS:
        return f"vLLM is not known to serve adapters of {source.model_type} models unmerged"
    if any(target.is_head for target in targets.values()):
        return "vLLM is not known to serve adapters on the output head unmerged"
    if max(target.r for target in targets.values()) > _VLLM_RANKS[-1]:
        return f"vLLM cannot serve it unmerged: its largest rank is {_VLLM_RANKS[-1]}"
    return None


def _card(source: Provenance, adapter: Adapter) -> str:
    lora, training = source.spec.lora, source.spec.training
    base = source.base.model_name_or_path
    lines = [
        "---",
        f"base_model: {json.dumps(base)}",
        "library_name: peft",
        "tags: [lora, loraloom]",
        "---",
        f"# {source.spec.name}",
        "",
        f"A LoRA adapter for `{base}`: {adapter.num_parameters:,} trained parameters on "
        f"{len(adapter.targets)} linear layers, r = {lora.r}, alpha = {lora.lora_alpha:g}, "
        f"dropout = {lora.lora_dropout:g}.",
        "",
        "| figure | value |",
        "|---|---|",
        *(f"| {name} | {value:.6g} |" for name, value in metrics(source).items()),
        f"| learning rate | {training.learning_rate:g}, {training.lr_scheduler_type} |",
        f"| rows a step | {training.per_device_train_batch_size} × {training.gradient_accumulation_steps} |",
        "",
        "```python",
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM",
        "",
        f"base = AutoModelForCausalLM.from_pretrained({base!r})",
        'model = PeftModel.from_pretrained(base, "path/to/this/folder")',
        "model = model.merge_and_unload()  # W + BA: no cost at inference",
        "```",
    ]
    command = vllm_command(source, adapter.targets)
    if command:
        lines += ["", "Serve it unmerged, from inside this folder:", "", "```", command, "```"]
    else:
        lines += ["", f"{why_not_vllm(source, adapter.targets)}. Merge it first."]
    return "\n".join(lines) + "\n"


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
