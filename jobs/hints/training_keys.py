"""Keys of other tools about how to train, evaluate and save."""

from __future__ import annotations

from collections.abc import Mapping

from jobs.hints.answers import OFF, Answer, Rule, choice, fixed, lost, needless, same, switch

_PACKS = "rows of all jobs run side by side without padding anyway"
_NOT_PADDED = "rows are not padded to a length"
_DRAWN = "rows are drawn anew each epoch by training.seed"


def _warmup_ratio(value: object, _beside: Mapping[str, object]) -> Answer:
    share = value if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1 else 0.1
    return Answer(
        fields=(("training.warmup_steps", share),),
        note="`warmup_ratio` is gone from transformers 5: warmup_steps below 1 is a share of all steps",
    )


def _optimizer(value: object, _beside: Mapping[str, object]) -> Answer:
    ours = {"adam": "adamw_torch", "adamw": "adamw_torch", "adamw_hf": "adamw_torch"}
    return Answer(fields=(("training.optim", ours.get(str(value).lower(), value)),))


def _per_epoch(value: object, beside: Mapping[str, object]) -> float | None:
    """The share of all steps between two of so many events an epoch; `None` where it cannot be known."""
    epochs = next((beside[key] for key in ("num_epochs", "num_train_epochs", "epochs") if key in beside), None)
    numbers = [number for number in (value, epochs) if isinstance(number, int | float) and not isinstance(number, bool)]
    if len(numbers) < 2 or min(numbers) <= 0 or numbers[0] * numbers[1] <= 1:
        return None
    return float(f"{1 / (numbers[0] * numbers[1]):.6g}")


def _saves_per_epoch(value: object, beside: Mapping[str, object]) -> Answer:
    share = _per_epoch(value, beside)
    if value == 1 or share is None:
        return Answer(fields=(("training.save_strategy", "epoch"),))
    return Answer(fields=(("training.save_steps", share),), note="a decimal is a share of all steps")


def _evals_per_epoch(value: object, beside: Mapping[str, object]) -> Answer:
    share = _per_epoch(value, beside)
    rows = "give it rows with val_size or eval_datasets"
    if value == 1 or share is None:
        return Answer(fields=(("training.eval_strategy", "epoch"),), note=rows)
    note = f"a decimal is a share of all steps; {rows}"
    return Answer(fields=(("training.eval_strategy", "steps"), ("training.eval_steps", share)), note=note)


def _train_on_inputs(value: object, _beside: Mapping[str, object]) -> Answer:
    if value is True:
        return Answer(fields=(("training.completion_only_loss", False),), note="for rows of prompt and completion")
    return Answer(
        needless=True,
        note="rows of prompt and completion learn the completion alone anyway; rows of messages need "
        "`assistant_only_loss: true` under training",
    )


TRAINING_KEYS: dict[str, Rule] = {
    # Length and batch.
    "max_seq_length": same("training.max_length"),
    "max_seq_len": same("training.max_length"),
    "sequence_len": same("training.max_length"),
    "seq_length": same("training.max_length"),
    "seq_len": same("training.max_length"),
    "cutoff_len": same("training.max_length"),
    "model_max_length": same("training.max_length"),
    "eval_sequence_len": needless("evaluation has training.max_length as well"),
    "max_prompt_length": lost("prompt and completion are cut together, to training.max_length"),
    "micro_batch_size": same("training.per_device_train_batch_size"),
    "batch_size": same("training.per_device_train_batch_size"),
    "train_batch_size": same("training.per_device_train_batch_size"),
    "per_gpu_train_batch_size": same("training.per_device_train_batch_size"),
    "per_device_batch_size": same("training.per_device_train_batch_size"),
    "eval_batch_size": same("training.per_device_eval_batch_size"),
    "per_gpu_eval_batch_size": same("training.per_device_eval_batch_size"),
    "grad_accum": same("training.gradient_accumulation_steps"),
    "grad_accumulation_steps": same("training.gradient_accumulation_steps"),
    "gradient_accumulation": same("training.gradient_accumulation_steps"),
    "accumulation_steps": same("training.gradient_accumulation_steps"),
    "auto_find_batch_size": needless("where memory runs out, a pack is halved and run again"),
    "average_tokens_across_devices": needless("a job's loss is a mean over all labels of its optimizer batch"),
    "activation_checkpointing": same("training.gradient_checkpointing"),
    "use_gradient_checkpointing": switch(
        fixed("training.gradient_checkpointing", True), fixed("training.gradient_checkpointing", False)
    ),
    "gradient_checkpointing_kwargs": needless("checkpointing has one way here, without reentry"),
    "activation_checkpointing_kwargs": needless("checkpointing has one way here, without reentry"),
    "activation_offloading": switch(lost("activations stay on the device; gradient_checkpointing saves memory"), OFF),
    # Packing.
    "sample_packing": needless(_PACKS),
    "eval_sample_packing": needless(_PACKS),
    "eval_packing": needless(_PACKS),
    "multipack_real_batches": needless(_PACKS),
    "sample_packing_eff_est": needless(_PACKS),
    "sample_packing_bin_size": needless(_PACKS),
    "sample_packing_group_size": needless(_PACKS),
    "sample_packing_sequentially": needless(_PACKS),
    "neat_packing": needless(_PACKS),
    "padding_free": needless(_PACKS),
    "batch_flattening": needless(_PACKS),
    "pad_to_sequence_len": needless(_NOT_PADDED),
    "pad_to_multiple_of": needless(_NOT_PADDED),
    "dispatch_batches": needless(_PACKS),
    "train_sampling_strategy": choice(
        {"group_by_length": lost("rows are drawn at random; without padding, groups of one length save nothing")},
        needless(_DRAWN),
    ),
    "length_column_name": needless(_NOT_PADDED),
    "dataloader_drop_last": switch(lost("a short last batch of an epoch steps as it is"), OFF),
    "curriculum_sampling": switch(lost(f"{_DRAWN}; rows in the order of the file are not supported"), OFF),
    "disable_shuffling": switch(lost(f"{_DRAWN}; rows in the order of the file are not supported"), OFF),
    "shuffle_merged_datasets": needless(_DRAWN),
    "shuffle_dataset": needless(_DRAWN),
    "shuffle": needless(_DRAWN),
    # Duration.
    "num_epochs": same("training.num_train_epochs"),
    "epochs": same("training.num_train_epochs"),
    "n_epochs": same("training.num_train_epochs"),
    "max_epochs": same("training.num_train_epochs"),
    "train_steps": same("training.max_steps"),
    "max_train_steps": same("training.max_steps"),
    # Optimizer and schedule.
    "lr": same("training.learning_rate"),
    "learning_rate_multiplier": lost("write the rate itself as training.learning_rate"),
    "embedding_learning_rate": needless("embeddings get no adapter here"),
    "embedding_lr": needless("embeddings get no adapter here"),
    "optimizer": _optimizer,
    "optim_args": switch(lost("adam_beta1, adam_beta2, adam_epsilon and weight_decay are the settings there are"), OFF),
    "optim_target_modules": switch(lost("the optimizer runs over the whole adapter"), OFF),
    "lr_scheduler": same("training.lr_scheduler_type"),
    "scheduler": same("training.lr_scheduler_type"),
    "lr_schedule": same("training.lr_scheduler_type"),
    "warmup_ratio": _warmup_ratio,
    "warmup": same("training.warmup_steps"),
    "num_warmup_steps": same("training.warmup_steps"),
    "lr_warmup_steps": same("training.warmup_steps"),
    "cosine_min_lr_ratio": switch(lost("schedules end at 0; a least rate is not supported yet"), OFF),
    "cosine_constant_lr_ratio": switch(lost("schedules have no constant part yet"), OFF),
    "min_lr": switch(lost("schedules end at 0; a least rate is not supported yet"), OFF),
    "min_lr_rate": switch(lost("schedules end at 0; a least rate is not supported yet"), OFF),
    "lr_groups": switch(lost("A and B share learning_rate"), OFF),
    "beta1": same("training.adam_beta1"),
    "beta2": same("training.adam_beta2"),
    "adam_beta3": lost("AdamW has two moments"),
    "adam_epsilon2": lost("AdamW has one epsilon"),
    "epsilon": same("training.adam_epsilon"),
    "eps": same("training.adam_epsilon"),
    "grad_clip": same("training.max_grad_norm"),
    "gradient_clip_val": same("training.max_grad_norm"),
    "gradient_clipping": same("training.max_grad_norm"),
    "max_gradient_norm": same("training.max_grad_norm"),
    "clip_grad_norm": same("training.max_grad_norm"),
    "noisy_embedding_alpha": switch(lost("noise on embeddings is not supported yet"), OFF),
    "label_smoothing": switch(lost("label smoothing is not supported yet"), OFF),
    # The loss.
    "train_on_inputs": _train_on_inputs,
    "train_on_prompt": _train_on_inputs,
    "mask_prompt": needless("rows of prompt and completion learn the completion alone anyway"),
    "mask_history": switch(lost("every assistant turn is learned; keep the last one as completion of its own"), OFF),
    "train_on_responses_only": switch(
        fixed("training.assistant_only_loss", True, "for rows of messages; prompt + completion need nothing"), OFF
    ),
    "roles_to_train": fixed("training.assistant_only_loss", True, "the assistant's turns are what can be learned"),
    "loss_type": choice(
        {"nll": needless("it is the loss there is")}, lost("the loss is cross-entropy over the labels")
    ),
    "dft_loss": switch(lost("the loss is cross-entropy over the labels"), OFF),
    "use_dft_loss": switch(lost("the loss is cross-entropy over the labels"), OFF),
    "num_items_in_batch": needless("a job's loss is a mean over all labels of its optimizer batch"),
    # Seeds.
    "random_seed": same("training.seed"),
    "random_state": same("training.seed"),
    "data_seed": same("training.seed", "one seed serves weights, the order of rows and dropout"),
    "full_determinism": needless("`packing: exact` under scheduling makes numbers independent of other jobs"),
    # Evaluation.
    "evaluation_strategy": same("training.eval_strategy"),
    "evals_per_epoch": switch(_evals_per_epoch, OFF),
    "eval_steps_per_epoch": switch(_evals_per_epoch, OFF),
    "do_eval": switch(needless("rows of val_size or eval_datasets are evaluated before and after training"), OFF),
    "eval_delay": switch(lost("evaluations begin before the first step"), OFF),
    "eval_accumulation_steps": needless("only sums are kept of an evaluation"),
    "prediction_loss_only": needless("only sums are kept of an evaluation"),
    "eval_do_concat_batches": needless("only sums are kept of an evaluation"),
    "eval_use_gather_object": needless("only sums are kept of an evaluation"),
    "batch_eval_metrics": needless("only sums are kept of an evaluation"),
    "eval_table_size": switch(lost("evaluation gives the loss and the share of exact answers, no table of texts"), OFF),
    "eval_max_new_tokens": needless("evaluation generates no text"),
    "predict_with_generate": switch(lost("evaluation gives the loss and the share of exact answers"), OFF),
    "eval_causal_lm_metrics": switch(lost("evaluation gives the loss and the share of exact answers"), OFF),
    "do_causal_lm_eval": switch(lost("evaluation gives the loss and the share of exact answers"), OFF),
    "compute_accuracy": needless("eval_exact_match is measured with every evaluation"),
    "include_for_metrics": needless("metrics are eval_loss and eval_exact_match"),
    "early_stopping": switch(lost("early stopping is not supported yet; set training.max_steps"), OFF),
    "loss_watchdog_threshold": needless("a job that is not finite fails alone: max_nonfinite_steps under training"),
    "loss_watchdog_patience": needless("a job that is not finite fails alone: max_nonfinite_steps under training"),
    # Saving.
    "saves_per_epoch": switch(_saves_per_epoch, fixed("training.save_strategy", "no")),
    "save_only_model": needless("the finished adapter is published without its optimizer; checkpoints have both"),
    "save_safetensors": needless("adapters are safetensors files"),
    "save_on_each_node": needless("adapters go to one place, the output directory or the server's store"),
    "save_at_end": needless("the finished adapter is published"),
    "save_first_step": needless("checkpoints are taken while steps are trained"),
    "save_minutes": lost("checkpoints by the clock are not supported yet; save_steps under training counts steps"),
    "resume_from_checkpoint": needless("run the same command again: every job goes on from its last checkpoint"),
    "auto_resume_from_checkpoints": needless("run the same command again: jobs go on from their last checkpoints"),
    "ignore_data_skip": needless("a job goes on with the row it had come to"),
    "restore_callback_states_from_checkpoint": needless("the whole state is restored"),
    "enable_jit_checkpoint": needless("a stopped job is saved at once anyway"),
}
