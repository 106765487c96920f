"""What each template writes around an answer, read off the templates by hand: nothing here is computed by our code.

Templates with `{% generation %}` marks are not listed: of them transformers itself says what is learned.
"""

from __future__ import annotations

_BY_END = {
    "<|im_end|>\n": (
        "axolotl/chatml axolotl/falcon_h1 axolotl/nemotron_h axolotl/qwen2_vl axolotl/qwen3 axolotl/qwen3_5 "
        "axolotl/qwen_25 trl/lfm2 trl/lfm2_v2 trl/nemotron_3_5_lightning trl/nemotron_3_nano trl/nemotron_3_super "
        "trl/nemotron_3_ultra trl/qwen2_5 trl/qwen2_5_vl trl/qwen3 trl/qwen3_5_nothink trl/qwen3_5_think trl/qwen3_6 "
        "trl/qwen3_8 trl/qwen3_instruct_2507 trl/qwen3_vl"
    ),
    "<EOS>": (
        "axolotl/alpaca axolotl/deepseek_v2 axolotl/mistral_v1 axolotl/mistral_v2v3 axolotl/mistral_v3_tekken "
        "axolotl/mistral_v7_tekken axolotl/pixtral"
    ),
    "<|END_OF_TURN_TOKEN|>": "axolotl/aya axolotl/cohere trl/cohere",
    "<|END_RESPONSE|><|END_OF_TURN_TOKEN|>": (
        "axolotl/command_a axolotl/command_a_rag axolotl/command_a_tool_use trl/cohere2"
    ),
    "<｜end▁of▁sentence｜>": "axolotl/deepseek_v3 trl/deepseek_r1_distill trl/deepseekv3",
    "[|endofturn|]\n": "axolotl/exaone axolotl/exaone4",
    "<end_of_turn>\n": "axolotl/gemma axolotl/gemma3 axolotl/gemma3n trl/gemma trl/gemma3",
    "<turn|>\n": (
        "axolotl/gemma4 axolotl/gemma4_unified trl/diffusion_gemma trl/gemma4 trl/gemma4_v2 trl/gemma4_v3 "
        "trl/gemma4_v4 trl/gemma4_v5"
    ),
    "<|eom|>": "axolotl/jamba",
    "<|eot_id|>": "axolotl/llama3 axolotl/llama3_2_vision trl/llama3 trl/llama3_1 trl/llama3_2",
    "<|eot|>": "axolotl/llama4 trl/muse_glimmer",
    "<|end|>\n": "axolotl/phi_3 axolotl/phi_35 trl/phi3 trl/phi3_5",
    "<end_of_utterance>\n": "trl/idefics3 trl/smolvlm",
    "</s> ": "trl/llava_next",
    "<|end|>": "trl/gptoss",
    "": "axolotl/metharme trl/glm4moe",
}
ENDS = {name: end for end, names in _BY_END.items() for name in names.split()}
"""What closes an answer that another turn follows."""
LAST_ENDS = ENDS | {
    "axolotl/metharme": "<EOS>",
    "trl/phi3": "<|end|>\n<EOS>",
    "trl/phi3_5": "<|end|>\n<EOS>",
    "trl/gptoss": "<|return|>",
}
"""What closes the last answer."""

_BLANK = dict.fromkeys(("axolotl/jamba", "trl/idefics3", "trl/smolvlm"), " ")
_EMPTY_THOUGHT = {
    **dict.fromkeys(
        ("trl/nemotron_3_5_lightning", "trl/nemotron_3_nano", "trl/nemotron_3_super", "trl/nemotron_3_ultra"),
        "<think></think>",
    ),
    "trl/glm4moe": "\n<think></think>\n",
}
FRAMES = {
    **_BLANK,
    **_EMPTY_THOUGHT,
    "trl/gptoss": "<|channel|>final<|message|>",
    "trl/muse_glimmer": " to=user<|message|>",
    "trl/qwen3_8": "\n</think>\n\n",
}
"""What of an answer the template itself writes before its words, where another request follows it."""
LAST_FRAMES = FRAMES | {
    "trl/qwen3": "<think>\n\n</think>\n\n",
    # The invitation ends within the thought: `<think>\n\n`, or `<think>\n`.
    "axolotl/qwen3": "</think>\n\n",
    "axolotl/qwen3_5": "</think>\n\n",
    "trl/qwen3_5_think": "\n</think>\n\n",
    "trl/qwen3_6": "\n</think>\n\n",
}
"""The same for the last answer, which some templates give a thought."""

CALL_ENDS = ENDS | {
    "axolotl/command_a_rag": "<|END_ACTION|><|END_OF_TURN_TOKEN|>",
    "axolotl/command_a_tool_use": "<|END_ACTION|><|END_OF_TURN_TOKEN|>",
    "trl/glm4moe": "</tool_call>",
    "trl/gptoss": "<|call|>",
    # They ask for the tool's answer with its opening token, at which generation stops.
    **dict.fromkeys(
        (
            "axolotl/gemma4",
            "axolotl/gemma4_unified",
            "trl/diffusion_gemma",
            "trl/gemma4",
            "trl/gemma4_v3",
            "trl/gemma4_v4",
            "trl/gemma4_v5",
        ),
        "<tool_call|><|tool_response>",
    ),
}
"""What closes a turn of calls."""
