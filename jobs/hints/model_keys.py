"""Keys of other tools about the base model and the adapter."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import cast

from jobs.hints.answers import OFF, Answer, Rule, choice, fixed, lost, needless, same, switch
from jobs.regex_globs import globs

_HALF = "bases are not quantised yet, and bfloat16 halves the memory of float32"
_QUANTISED = fixed("model.dtype", "bfloat16", _HALF)
_TEMPLATE = (
    "the base's own chat template is used; for another one, write it to a file and give its path as chat_template_path"
)
_TOKENS = "tokens and their rows in the embedding are the base's own"
_NO_KERNELS = "kernels are chosen by the worker, and none changes a result"
_MODULES = "`model.named_modules()` prints the names that target_modules can take"


def _dtype(value: object, _beside: Mapping[str, object]) -> Answer:
    text = str(value).removeprefix("torch.").lower()
    return Answer(fields=(("model.dtype", {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}.get(text, text)),))


def _targets(value: object, _beside: Mapping[str, object]) -> Answer:
    if isinstance(value, str):
        if value.lower() in ("all", "all-linear"):
            return Answer(fields=(("lora.target_modules", "all-linear"),))
        if re.fullmatch(r"[\w.]+(\s*,\s*[\w.]+)*", value):
            return Answer(fields=(("lora.target_modules", re.split(r"\s*,\s*", value)),))
        return Answer(
            fields=(("lora.target_modules", globs(value) or value),),
            note="names and globs are taken here, not regular expressions",
        )
    return Answer(fields=(("lora.target_modules", value),))


def _layers(value: object, _beside: Mapping[str, object]) -> Answer:
    return Answer(
        fields=(("lora.target_modules", layer_globs(value)),),
        note="globs choose the layers here; write the modules that you train in place of q_proj and v_proj",
    )


def layer_globs(value: object) -> list[str]:
    """Globs of q_proj and v_proj in these layers, one per number of digits: [0, 1, 12] -> `layers.[01].*`, …"""
    given = cast("list[object]", value) if isinstance(value, list | tuple) else [value]
    layers = sorted({layer for layer in given if isinstance(layer, int) and not isinstance(layer, bool) and layer >= 0})
    tens: dict[str, str] = {}
    for layer in layers or [0, 1]:
        text = str(layer)
        tens[text[:-1]] = tens.get(text[:-1], "") + text[-1]
    places = [front + (last if len(last) == 1 else f"[{last}]") for front, last in tens.items()]
    return [f"layers.{place}.*.{module}" for place in places for module in ("q_proj", "v_proj")]


def _adapter(value: object, _beside: Mapping[str, object]) -> Answer:
    kind = str(value).lower()
    if kind in ("lora", "none"):
        return Answer(needless=True, note="every job trains a LoRA adapter; its settings stand under lora")
    if kind == "qlora":
        return Answer(fields=(("model.dtype", "bfloat16"),), note=f"an adapter is trained in any case; {_HALF}")
    return Answer(note="only LoRA adapters are trained here")


_LAYERS: Rule = switch(_layers, needless("all layers are taken anyway"))

MODEL_KEYS: dict[str, Rule] = {
    "base_model": same("model.model_name_or_path"),
    "model_name": same("model.model_name_or_path"),
    "model_id": same("model.model_name_or_path"),
    "model_path": same("model.model_name_or_path"),
    "pretrained_model_name_or_path": same("model.model_name_or_path"),
    "base_model_config": needless("the base's own config.json is used"),
    "model_type": needless("the class is read from the base's config.json"),
    "tokenizer_type": needless("the class is read from the base's own files"),
    "tokenizer_config": needless("the tokenizer is the base's own"),
    "tokenizer_name_or_path": lost("the tokenizer is the base's own; name a base that has that one"),
    "tokenizer_use_fast": needless("the base's own tokenizer is used"),
    "is_llama_derived_model": needless("the class is read from the base's config.json"),
    "model_revision": same("model.revision"),
    "torch_dtype": _dtype,
    "bf16": switch(fixed("model.dtype", "bfloat16"), needless("the base's type is model.dtype")),
    "bfloat16": switch(fixed("model.dtype", "bfloat16"), needless("the base's type is model.dtype")),
    "fp16": switch(fixed("model.dtype", "float16"), needless("the base's type is model.dtype")),
    "float16": switch(fixed("model.dtype", "float16"), needless("the base's type is model.dtype")),
    "pure_bf16": switch(fixed("model.dtype", "bfloat16"), OFF),
    "fp8": switch(fixed("model.dtype", "bfloat16", "fp8 is not supported"), OFF),
    "bf16_full_eval": needless("evaluation runs in the base's type as well"),
    "fp16_full_eval": needless("evaluation runs in the base's type as well"),
    "tf32": needless("the type of the numbers is model.dtype, and products of float32 stay float32"),
    "load_in_16bit": switch(fixed("model.dtype", "bfloat16"), OFF),
    "quantization_bit": switch(_QUANTISED, OFF),
    "quantization_method": _QUANTISED,
    "quantization_config": switch(_QUANTISED, OFF),
    "bnb_config": switch(_QUANTISED, OFF),
    "use_bnb_nested_quant": switch(_QUANTISED, OFF),
    "double_quantization": needless("bases are not quantised yet"),
    "gptq": switch(_QUANTISED, OFF),
    **dict.fromkeys(
        ("bnb_4bit_quant_type", "bnb_4bit_compute_dtype", "bnb_4bit_use_double_quant", "bnb_4bit_quant_storage"),
        needless("bases are not quantised yet, so there is nothing to set about it"),
    ),
    **dict.fromkeys(
        (
            *("attn_implementation", "flash_attention", "flash_attn", "use_flash_attention_2", "use_flash_attn"),
            *("xformers_attention", "sdp_attention", "flex_attention", "eager_attention", "s2_attention"),
            *("use_liger_kernel", "enable_liger_kernel", "liger_kernel_config", "liger_rope", "liger_rms_norm"),
            *("liger_glu_activation", "liger_swiglu", "liger_cross_entropy", "liger_fused_linear_cross_entropy"),
            *("liger_layer_norm", "lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "use_unsloth", "use_kernels"),
            *("use_unsloth_gc", "unsloth_cross_entropy_loss", "unsloth_lora_mlp", "unsloth_lora_qkv"),
            *("unsloth_lora_o", "unsloth_rms_norm", "unsloth_rope", "cut_cross_entropy", "kernel_config"),
            *("torch_compile", "torch_compile_backend", "torch_compile_mode", "compile", "plugins", "use_cache"),
            *("flash_attn_cross_entropy", "flash_attn_rms_norm", "flash_attn_fuse_mlp", "fast_inference"),
        ),
        needless(_NO_KERNELS),
    ),
    "device_map": needless("the scheduler places bases on devices"),
    "low_cpu_mem_usage": needless("weights are loaded without a second copy anyway"),
    "gpu_memory_utilization": needless("memory is measured, and packs are cut to fit"),
    "max_memory": needless("memory is measured, and packs are cut to fit"),
    "rope_scaling": switch(lost("the base's own positions are used; edit rope_scaling in its config.json"), OFF),
    "rope_theta": switch(lost("the base's own positions are used; edit its config.json"), OFF),
    "model_kwargs": switch(lost("the base is loaded as its config.json says; dtype and revision are fields"), OFF),
    "model_init_kwargs": switch(lost("the base is loaded as its config.json says; dtype and revision are fields"), OFF),
    # Chat templates and tokens.
    "chat_template": switch(lost(_TEMPLATE), needless("the base's own chat template is used anyway")),
    "template": switch(lost(_TEMPLATE), needless("the base's own chat template is used anyway")),
    "chat_template_jinja": switch(lost(_TEMPLATE), OFF),
    "tokenizer_default_system_prompt": switch(lost("write the system turn into the rows"), OFF),
    "default_system": switch(lost("write the system turn into the rows"), OFF),
    "system_prompt": switch(lost("write the system turn into the rows"), OFF),
    "enable_thinking": lost("the template is rendered with its own defaults; set the switch inside a template file"),
    "special_tokens": switch(lost(f"{_TOKENS}; padding needs no token, for rows are not padded"), OFF),
    "pad_token": needless("rows are not padded with a token that could be learned"),
    "padding_side": needless("rows stand side by side without padding"),
    "eot_tokens": needless("the end of a turn is learned as the chat template prints it"),
    "eot_token": needless("the end of a turn is learned as the chat template prints it"),
    "train_on_eos": needless("the end of each learned turn is learned"),
    "train_on_eot": needless("the end of each learned turn is learned"),
    "efficient_eos": needless("the end of each learned turn is learned"),
    "add_eos_token": needless("a completion ends with the end token anyway"),
    "add_bos_token": needless("the tokenizer's own begin token is set, once"),
    **dict.fromkeys(
        ("tokens", "added_tokens_overrides", "add_tokens", "add_special_tokens", "new_special_tokens"),
        switch(lost(_TOKENS), OFF),
    ),
    "resize_vocab": switch(lost(_TOKENS), OFF),
    "resize_token_embeddings_to_32x": switch(lost(_TOKENS), OFF),
    # The adapter.
    "adapter": _adapter,
    "finetuning_type": _adapter,
    "peft_type": _adapter,
    "use_peft": switch(needless("every job trains a LoRA adapter"), lost("only adapters are trained here")),
    "train_lora": needless("every job trains a LoRA adapter"),
    "lora_r": same("lora.r"),
    "lora_rank": same("lora.r"),
    "rank": same("lora.r"),
    "lora_target": _targets,
    "lora_target_modules": _targets,
    "peft_layers": _targets,
    "lora_target_linear": switch(
        fixed("lora.target_modules", "all-linear"),
        needless("target_modules says which modules are trained; by default every linear one"),
    ),
    "alpha": same("lora.lora_alpha"),
    "lora_scale": lost("the scale is lora_alpha / r; write lora_alpha"),
    "lora_scaling": lost("the scale is lora_alpha / r; write lora_alpha"),
    "dropout": same("lora.lora_dropout"),
    "lora_bias_type": same("lora.bias"),
    "lora_use_rslora": same("lora.use_rslora"),
    "peft_use_rslora": same("lora.use_rslora"),
    "rslora": same("lora.use_rslora"),
    "lora_init_lora_weights": same("lora.init_lora_weights"),
    "peft_init_lora_weights": same("lora.init_lora_weights"),
    "lora_exclude_modules": same("lora.exclude_modules"),
    "lora_rank_pattern": same("lora.rank_pattern"),
    "lora_alpha_pattern": same("lora.alpha_pattern"),
    "lora_task_type": choice(
        {"causal_lm": needless("adapters generate text")}, lost("adapters for other tasks are not supported yet")
    ),
    "peft_layers_to_transform": _LAYERS,
    "lora_layers_to_transform": _LAYERS,
    "layers_pattern": lost("globs choose layers here: `layers.[01].*.q_proj` under target_modules"),
    "fan_in_fan_out": needless("it is found from the base's own layers"),
    "lora_fan_in_fan_out": needless("it is found from the base's own layers"),
    "loftq_config": switch(
        lost("LoftQ changes the base's weight, which is shared with other jobs and stays as it is"), OFF
    ),
    "pissa_init": switch(lost("PiSSA is not supported yet; without it the adapter starts at no change"), OFF),
    "pissa_iter": needless("PiSSA is not supported yet"),
    "pissa_convert": needless("PiSSA is not supported yet"),
    "lora_modules_to_save": switch(lost("modules trained in full are not supported yet, only adapters"), OFF),
    "additional_target": switch(lost("modules trained in full are not supported yet, only adapters"), OFF),
    "peft_use_dora": switch(lost("DoRA is not supported yet; use_rslora is"), OFF),
    "lora_use_dora": switch(lost("DoRA is not supported yet; use_rslora is"), OFF),
    "loraplus_lr_embedding": needless("embeddings get no adapter here"),
    "lora_model_dir": switch(lost("an adapter cannot be trained on yet; jobs start from init_lora_weights"), OFF),
    "adapter_name_or_path": switch(lost("an adapter cannot be trained on yet; jobs start from init_lora_weights"), OFF),
    "create_new_adapter": needless("every job trains an adapter of its own"),
    "unfrozen_parameters": switch(lost("the base stays frozen; only adapters are trained"), OFF),
    "freeze_vision_tower": needless("the base is frozen"),
    "freeze_multi_modal_projector": needless("the base is frozen"),
    "finetune_vision_layers": switch(lost(f"target_modules says which modules are trained; {_MODULES}"), OFF),
    "finetune_language_layers": needless("target_modules says which modules are trained"),
    "finetune_attention_modules": needless("target_modules says which modules are trained"),
    "finetune_mlp_modules": needless("target_modules says which modules are trained"),
    "inference_mode": needless("adapters are trained here"),
    **dict.fromkeys(
        (
            *("alora_invocation_tokens", "arrow_config", "corda_config", "eva_config", "kasa_config"),
            *("lora_ga_config", "megatron_config", "megatron_core", "monteclora_config", "qalora_group_size"),
            *(
                "use_qalora",
                "use_bdlora",
                "velora_config",
                "layer_replication",
                "runtime_config",
                "ensure_weight_tying",
            ),
        ),
        switch(lost("PEFT has this, adapters here are plain LoRA"), OFF),
    ),
    "auto_mapping": needless("the artifact says what PEFT needs to open it"),
    "peft_version": needless("the artifact says what PEFT needs to open it"),
    "base_model_name_or_path": same("model.model_name_or_path"),
}
