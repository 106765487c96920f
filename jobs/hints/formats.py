"""Whole configurations of other tools, known by the keys that they alone have."""

from __future__ import annotations

from collections.abc import Mapping


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SIGNATURES: Mapping[str, frozenset[str]] = {
    "an Axolotl configuration": _words(
        """base_model adapter sequence_len micro_batch_size lora_target_linear val_set_size
        sample_packing saves_per_epoch evals_per_epoch dataset_prepared_path num_epochs
        lora_target_modules lora_r optimizer lr_scheduler train_on_inputs pad_to_sequence_len
        flash_attention special_tokens"""
    ),
    "a LLaMA-Factory configuration": _words(
        """stage finetuning_type lora_rank lora_target template cutoff_len dataset dataset_dir
        preprocessing_num_workers plot_loss pissa_init quantization_bit overwrite_cache do_train"""
    ),
    "a TRL configuration": _words(
        """model_name_or_path model_revision torch_dtype use_peft dataset_name dataset_config
        dataset_mixture dataset_train_split dataset_text_field lora_r lora_target_modules
        max_seq_length attn_implementation gradient_checkpointing_kwargs per_device_train_batch_size
        num_train_epochs lr_scheduler_type hub_strategy load_in_4bit max_length packing"""
    ),
    "the arguments of unsloth": _words(
        """model_name max_seq_length load_in_4bit load_in_8bit full_finetuning r lora_alpha
        lora_dropout bias random_state use_gradient_checkpointing use_rslora loftq_config
        per_device_train_batch_size dataset_num_proc optim target_modules train_on_responses_only"""
    ),
}
_OURS = frozenset({"model", "lora", "training", "scheduling", "job_recovery"})
_LEAST = 4
"""Keys of another tool at the top of a document, from which on it is taken for one of its files."""


def looks_like(document: Mapping[str, object]) -> str | None:
    """The tool that a document is a configuration of, as in "an Axolotl configuration"; `None` for a job."""
    if any(isinstance(document.get(block), Mapping) for block in _OURS):
        return None
    found = {name: len(keys & document.keys()) for name, keys in _SIGNATURES.items()}
    best = max(found, key=lambda name: found[name])
    return best if found[best] >= _LEAST else None


def introduction(name: str) -> str:
    """The sentence that goes before the answers to its keys."""
    return (
        f"this looks like {name}: here the fields of a job stand in the blocks model, lora, datasets and training "
        "(`loraloom init` writes an example); what becomes of each line follows"
    )
