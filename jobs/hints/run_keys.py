"""Keys of other tools about the run as a whole: output, logs, trackers, processes, devices."""

from __future__ import annotations

from collections.abc import Mapping

from jobs.hints.answers import OFF, Answer, Rule, choice, fixed, lost, needless, same, switch

_OUTPUT = "the directory is an option of the command: `loraloom run --output-dir DIR SPEC`"
_DEVICES = "the scheduler places jobs on devices; a base runs whole on one of them"
_LOADER = "rows are read and tokenised before training, without loader processes"
_LOGS = "what is logged is set by training.logging_steps"


def _tracker(name: str) -> Rule:
    return switch(fixed("report_to", name), needless(f"`report_to: {name}` is what switches {name} on"))


def _tracker_detail(name: str) -> Rule:
    return lambda value, _beside: Answer(
        fields=() if value in (None, "") else (("report_to", name),),
        needless=value in (None, ""),
        note=f"`report_to: {name}` is what switches {name} on; runs are called after the job's name",
    )


def _stage(value: object, _beside: Mapping[str, object]) -> Answer:
    if str(value).lower() in ("sft", "none"):
        return Answer(needless=True, note="jobs are supervised fine-tuning")
    return Answer(note="only supervised fine-tuning is done here, not DPO, PPO, KTO or reward modelling")


RUN_KEYS: dict[str, Rule] = {
    "output_dir": needless(_OUTPUT),
    "out_dir": needless(_OUTPUT),
    "save_dir": needless(_OUTPUT),
    "logging_dir": needless("what trackers write lies below trackers/ of the output directory"),
    "overwrite_output_dir": needless("an output directory is gone on with, and finished jobs are not run again"),
    "overwrite_cache": needless("prepared rows are recognised by their content"),
    "run_name": same("name", "letters, digits and dashes"),
    "job_name": same("name"),
    "experiment_name": same("name"),
    "project": _tracker_detail("trackio"),
    "stage": _stage,
    "rl": switch(lost("only supervised fine-tuning is done here"), OFF),
    "trl": switch(lost("only supervised fine-tuning is done here"), OFF),
    "do_train": switch(needless("a job trains"), lost("a job trains; `loraloom validate` looks without training")),
    "do_predict": switch(lost("no texts are generated; open the adapter in PEFT or vLLM"), OFF),
    "strict": needless("unknown keys are refused anyway"),
    "plot_loss": needless("loss curves are drawn into the output directory anyway"),
    "debug": needless("`loraloom run` writes a log of each job below logs/"),
    # Trackers.
    **{key: _tracker_detail("wandb") for key in ("wandb_project", "wandb_name", "wandb_run_id", "wandb_entity")},
    **{key: _tracker_detail("wandb") for key in ("wandb_watch", "wandb_log_model", "wandb_mode", "wandb_run_name")},
    "use_wandb": _tracker("wandb"),
    "use_tensorboard": _tracker("tensorboard"),
    "use_mlflow": _tracker("mlflow"),
    "use_trackio": _tracker("trackio"),
    **{key: _tracker_detail("mlflow") for key in ("mlflow_tracking_uri", "mlflow_experiment_name", "mlflow_run_name")},
    **{key: _tracker_detail("trackio") for key in ("trackio_project_name", "trackio_space_id", "trackio_bucket_id")},
    "trackio_static_space_id": _tracker_detail("trackio"),
    "trackio_run_name": _tracker_detail("trackio"),
    **{
        key: switch(lost("the trackers are tensorboard, wandb, mlflow and trackio"), OFF)
        for key in ("use_comet", "comet_project_name", "comet_api_key", "swanlab_project", "use_swanlab")
    },
    # Logs.
    "logging_strategy": choice({"steps": needless(_LOGS)}, lost(f"{_LOGS}, in steps")),
    "logging_first_step": needless("the first step is logged anyway"),
    "logging_nan_inf_filter": needless("a step that is not finite is skipped and told"),
    **dict.fromkeys(
        ("log_level", "log_level_replica", "log_on_each_node", "disable_tqdm", "verbose", "print_trainable_parameters"),
        needless("it changes what other tools print, and nothing that is trained"),
    ),
    "include_tokens_per_second": needless("tokens a second are measured anyway"),
    "include_num_input_tokens_seen": needless("tokens are counted anyway"),
    "skip_memory_metrics": needless("memory is measured anyway"),
    "profiler_steps": switch(lost("there is no profiler in a spec"), OFF),
    # Hub.
    "hub_strategy": needless("nothing is uploaded; upload the finished adapter yourself"),
    "hub_token": lost("nothing is uploaded; keep tokens out of specs, HF_TOKEN in the environment is read"),
    "hub_private_repo": needless("nothing is uploaded"),
    "hub_always_push": needless("nothing is uploaded"),
    "hub_revision": needless("nothing is uploaded"),
    "push_adapter_to_hub": switch(lost("upload the finished adapter yourself"), OFF),
    "hf_use_auth_token": needless("HF_TOKEN in the environment is read"),
    "token": lost("keep tokens out of specs; HF_TOKEN in the environment is read"),
    "hf_token": lost("keep tokens out of specs; HF_TOKEN in the environment is read"),
    # Blocks.
    **{key: same("lora") for key in ("peft", "peft_config", "lora_config", "peft_args", "lora_args")},
    **{key: same("training") for key in ("training_args", "training_arguments", "trainer", "sft_config", "train")},
    **{key: same("model") for key in ("model_config", "model_args", "model_arguments")},
    # Processes and devices.
    "mixed_precision": choice(
        {"bf16": fixed("model.dtype", "bfloat16"), "fp16": fixed("model.dtype", "float16")},
        needless("the base's type is model.dtype"),
    ),
    **dict.fromkeys(
        (
            *("preprocessing_num_workers", "dataset_num_proc", "dataset_processes", "num_proc", "num_workers"),
            *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers"),
            *("dataloader_prefetch_factor", "dataloader_multiprocessing_context", "dataloader_in_order"),
            *("preprocessing_batch_size", "dataset_prepared_path", "tokenized_path", "accelerator_config"),
            *("remove_unused_columns", "label_names", "dataset_kwargs", "dataset_exact_deduplication"),
            *("skip_prepare_dataset", "buffer_size", "streaming_buffer_size", "num_proc_dataset"),
        ),
        needless(_LOADER),
    ),
    **dict.fromkeys(
        (
            *("deepspeed", "fsdp", "fsdp_config", "fsdp_version", "fsdp_transformer_layer_cls_to_wrap", "ddp"),
            *("ddp_timeout", "ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_find_unused_parameters"),
            *("ddp_backend", "ddp_static_graph", "local_rank", "world_size", "num_gpus", "num_machines"),
            *("num_processes", "distributed_type", "main_training_function", "machine_rank"),
            *("compute_environment", "use_cpu", "no_cuda", "device", "parallelism_config", "context_parallel_size"),
            *("tensor_parallel_size", "sequence_parallel_degree", "dp_shard_size", "torch_empty_cache_steps"),
            *("gc_steps", "use_ray", "ray_num_workers", "low_cpu_mem", "offload_folder", "downcast_bf16"),
        ),
        needless(_DEVICES),
    ),
}
