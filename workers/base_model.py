"""The frozen base: loaded once, its linears replaced by multi-adapter ones, never changed again.

Shape legend: B rows, T tokens of a pack, N label tokens, V vocabulary, D width.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from jobs.errors import BaseModelError
from jobs.records import BaseKey
from jobs.spec import ModelSpec
from workers import attention, layout
from workers.dataset import Row
from workers.lora import MultiAdapterLinear, Router, Segment
from workers.products import linear
from workers.targets import LinearShape, linears

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


@dataclass(frozen=True, kw_only=True)
class Blueprint:
    """What can be known of a base without loading its weights."""

    key: BaseKey
    config: PretrainedConfig
    shapes: dict[str, LinearShape]
    module_names: frozenset[str]
    num_parameters: int

    @property
    def base_bytes(self) -> int:
        """Bytes of the frozen weights."""
        return self.num_parameters * DTYPES[self.key.dtype].itemsize


def read_blueprint(spec: ModelSpec) -> Blueprint:
    """Read config and structure; weights stay on disk.

    Raises:
        BaseModelError: The base is not there, or is not a causal language model.
    """
    config = read_config(spec)
    dtype = spec.dtype if spec.dtype != "auto" else str(config.dtype or torch.float32).removeprefix("torch.")
    if dtype not in DTYPES:
        raise BaseModelError(f"the base is stored as {dtype}; supported are {', '.join(DTYPES)}", field="model.dtype")
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except ValueError as error:
        raise BaseModelError(
            f"{type(config).__name__} is not a causal language model that transformers knows",
            value=spec.model_name_or_path,
        ) from error
    return Blueprint(
        key=BaseKey(
            model_name_or_path=_identity(spec.model_name_or_path),
            revision=getattr(config, "_commit_hash", None) or spec.revision,
            dtype=dtype,
        ),
        config=config,
        shapes=linears(model),
        module_names=frozenset(name for name, _ in model.named_modules() if name),
        num_parameters=model.num_parameters(),
    )


def read_config(spec: ModelSpec) -> PretrainedConfig:
    """The base's config.json, with the commit it is from in `_commit_hash` when it came from a hub.

    Raises:
        BaseModelError: There is no such folder or hub model, or it cannot be read.
    """
    name = spec.model_name_or_path
    folder = Path(name)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise BaseModelError(f"the folder {name} holds no config.json, so it is no saved model", value=name)
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1
    if looks_local and not folder.is_dir():
        raise BaseModelError(f"there is no folder {name} (looked in {Path.cwd()})", value=name)
    try:
        return AutoConfig.from_pretrained(name, revision=spec.revision)
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise BaseModelError(f"the base model cannot be read: {first}", value=name) from error


def load_tokenizer(spec: ModelSpec, key: BaseKey) -> PreTrainedTokenizerBase:
    """The base's tokenizer, with the job's own chat template where it names one.

    Raises:
        BaseModelError: There is none, or it cannot tell which characters a token stands for.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(key.model_name_or_path, revision=key.revision)
    except (OSError, ValueError) as error:
        raise BaseModelError(
            "the base has no usable tokenizer: its tokenizer.json is missing or broken; save the tokenizer beside the "
            "model, or name a base that has one",
            value=key.model_name_or_path,
        ) from error
    if not tokenizer.is_fast:
        raise BaseModelError(
            "the base has only a slow tokenizer, which cannot say which characters a token covers; "
            "save it once with a tokenizer.json",
            value=key.model_name_or_path,
        )
    # transformers warns about rows over this; our max_length is the job's.
    tokenizer.model_max_length = int(1e30)
    if spec.chat_template_path:
        try:
            template = Path(spec.chat_template_path)
            template = template / "chat_template.jinja" if template.is_dir() else template
            tokenizer.chat_template = template.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BaseModelError(
                f"the chat template cannot be read: {error}", field="model.chat_template_path"
            ) from error
    return tokenizer


class LabelHead(nn.Module):
    """The output head, applied to the positions that predict a label and to no others."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head
        self.predict_N: Tensor | None = None
        """Flattened positions to keep; all of them where `None`."""

    @property
    def weight(self) -> Tensor:
        """The head's weight, for model code that looks at it."""
        return self.head.weight  # pyright: ignore[reportReturnType]

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        """(B, T, D) to (1, N, V), or to (B, T, V) with nothing selected."""
        if self.predict_N is not None:
            hidden_BTD = hidden_BTD.reshape(-1, hidden_BTD.shape[-1])[self.predict_N][None]
        if isinstance(self.head, nn.Linear):
            return linear(hidden_BTD, self.head.weight, self.head.bias)
        return self.head(hidden_BTD)


class BaseModel:
    """One frozen base on one device, ready to run packs of rows through per-row adapters.

    Always in evaluation mode: the base's own dropouts would draw from the global generator.
    """

    def __init__(self, model: PreTrainedModel, key: BaseKey, device: torch.device | str = "cpu") -> None:
        """Take over a loaded model: freeze it and install the multi-adapter layers."""
        self.key = key
        self.device = torch.device(device)
        self.shapes = linears(model)
        self.module_names = frozenset(name for name, _ in model.named_modules() if name)
        self.model = model.to(self.device).eval().requires_grad_(False)  # pyright: ignore[reportArgumentType]
        self.router = Router()
        for name in self.shapes:
            parent_name, _, child = name.rpartition(".")
            parent = model.get_submodule(parent_name)
            setattr(parent, child, MultiAdapterLinear(getattr(parent, child), name, self.router).to(self.device))
        head = model.get_output_embeddings()
        if head is None:
            raise BaseModelError(f"{type(model).__name__} has no output head", value=key.model_name_or_path)
        self._head = LabelHead(head)
        model.set_output_embeddings(self._head)  # pyright: ignore[reportArgumentType]
        self.layout = "packed" if self._can_pack() else "padded"

    @classmethod
    def load(cls, key: BaseKey, device: torch.device | str = "cpu") -> BaseModel:
        """Read the weights from a folder or a hub.

        Raises:
            BaseModelError: The weights are missing or broken, or the device has no room for them.
        """
        try:
            model = AutoModelForCausalLM.from_pretrained(
                key.model_name_or_path,
                revision=key.revision,
                dtype=DTYPES[key.dtype],
                use_safetensors=True,
            )
        except Exception as error:  # the libraries below raise types of their own for broken files
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise BaseModelError(f"the weights cannot be loaded: {first}", value=key.model_name_or_path) from error
        return cls(model, key, device)

    @property
    def dtype(self) -> torch.dtype:
        """Of the frozen weights."""
        return self.model.dtype

    @property
    def vocab_size(self) -> int:
        """Rows of the input embedding, which is what ids index."""
        embedding = self.model.get_input_embeddings()
        assert isinstance(embedding, nn.Embedding)
        return embedding.num_embeddings

    def label_logits(self, rows: Sequence[Row], segments: Sequence[Segment]) -> tuple[Tensor, Tensor, int]:
        """Run rows through the base with the adapters that the segments name.

        Args:
            rows: In pack order.
            segments: Token ranges over the rows end to end, with their adapters.

        Returns:
            logits (N, V) and labels (N,) of all label tokens in pack order, and the number of padding positions.
        """
        lay_out = layout.packed if self.layout == "packed" else layout.padded
        pack = lay_out(rows, self.device)
        self.router.route(segments, pack.token_index_T)
        self._head.predict_N = pack.predict_N
        try:
            output = self.model(**pack.inputs, use_cache=False)
        finally:
            self._head.predict_N = None
            self.router.clear()
        return output.logits[0], pack.labels_N, pack.num_padding

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over names and bytes of all frozen parameters, in the model's order."""
        return self.weights_sha256()

    def weights_sha256(self) -> str:
        """Hash the frozen weights as they are now."""
        digest = hashlib.sha256()
        for name, parameter in self.model.named_parameters():
            digest.update(name.encode())
            digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def _can_pack(self) -> bool:
        """Try it: rows packed must not see each other, and must give what each gives alone.

        A model may ignore restarting positions, mix neighbouring tokens by a convolution or a recurrence, or attend
        without asking transformers' interface. All of that shows in numbers, whatever the model's flags say.
        """
        if "position_ids" not in inspect.signature(self.model.forward).parameters:
            return False
        attention.register()
        usual = self.model.config._attn_implementation or "eager"
        generator = np.random.default_rng(0)
        vocabulary = self.vocab_size
        rows = [
            Row(index=0, ids=generator.integers(0, vocabulary, length), labelled=np.arange(length) > 0)
            for length in (7, 4, 9)
        ]
        try:
            with torch.no_grad():
                alone = torch.cat([self._probe(layout.padded([row], self.device)) for row in rows])
                self.model.set_attn_implementation(attention.PACKED_ROWS)
                together = self._probe(layout.packed(rows, self.device))
                leaks = self._leaks(layout.packed(rows, self.device), slice(7, 11))
        except (NotImplementedError, TypeError, ValueError, RuntimeError):
            together = alone = torch.zeros(1)
            leaks = True
        tolerance = 1e-3 if self.dtype.itemsize >= 4 else 0.1
        same = bool((together - alone).norm() <= tolerance * alone.norm())
        if leaks or not same:
            self.model.set_attn_implementation(usual)
            return False
        return True

    def _probe(self, pack: layout.LaidOut) -> Tensor:
        self._head.predict_N = pack.predict_N
        try:
            return self.model(**pack.inputs, use_cache=False).logits[0].double()
        finally:
            self._head.predict_N = None

    def _leaks(self, pack: layout.LaidOut, poisoned: slice) -> bool:
        """Whether a row of NaN reaches any other row."""
        inputs = dict(pack.inputs)
        embedded = self.model.get_input_embeddings()(inputs.pop("input_ids")).clone()
        embedded[0, poisoned] = float("nan")
        finite = self.model(inputs_embeds=embedded, **inputs, use_cache=False).logits[0].isfinite().all(dim=-1)
        finite[poisoned] = True
        return not bool(finite.all())


def _identity(name: str) -> str:
    """A local folder by its full path, so that two spellings of it share one base; a hub id as it is."""
    folder = Path(name)
    return str(folder.resolve()) if folder.is_dir() else name
