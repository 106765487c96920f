"""The frozen base: loaded once, its linears replaced by multi-adapter ones, never changed again.

Shape legend: N label tokens, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

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

from jobs.errors import BaseModelError, Problem
from jobs.records import BaseKey
from jobs.spec import ModelSpec
from workers import confinement, layout
from workers.base_checks import base_problems, storage_problem
from workers.dataset import Row
from workers.input_groups import find_input_groups
from workers.lane import Lane, share_weights
from workers.lora import Segment
from workers.probe import Probe
from workers.stored_weights import look_at_weights
from workers.structure import LinearShape, Structure, read_structure
from workers.template_files import read_template

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
    structure: Structure
    problems: tuple[Problem, ...] = ()
    """Why no job can train on it: how its weights are stored, what its attention does."""

    @property
    def shapes(self) -> dict[str, LinearShape]:
        """The linears that carry adapters."""
        return self.structure.shapes

    @property
    def module_names(self) -> frozenset[str]:
        """All modules."""
        return self.structure.module_names

    @property
    def num_parameters(self) -> int:
        """Of the frozen base."""
        return self.structure.num_parameters

    @property
    def base_bytes(self) -> int:
        """Bytes of the frozen weights."""
        return self.num_parameters * DTYPES[self.key.dtype].itemsize


def read_blueprint(spec: ModelSpec) -> Blueprint:
    """Read config and structure, and look at the files of the weights; the weights stay on disk.

    Raises:
        BaseModelError: The base is not there, or is not a causal language model. What keeps jobs from training on one
            that is there is in `Blueprint.problems`.
    """
    config = read_config(spec)
    name = spec.model_name_or_path
    source = confinement.model_source(name)
    problems = []
    stored_as = None
    quantized = storage_problem(config, name)
    if quantized is not None:
        problems.append(quantized)
    else:
        try:
            stored_as = look_at_weights(source, getattr(config, "_commit_hash", None) or spec.revision)
        except BaseModelError as error:
            problems.append(Problem(message=str(error), field=error.field, value=name))
    dtype = spec.dtype
    if dtype == "auto":
        dtype = str(config.dtype).removeprefix("torch.") if config.dtype else stored_as or "float32"
    if dtype not in DTYPES:
        raise BaseModelError(f"the base is stored as {dtype}; supported are {', '.join(DTYPES)}", field="model.dtype")
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except ValueError as error:
        raise BaseModelError(
            f"{type(config).__name__} is not a causal language model that transformers knows", value=name
        ) from error
    structure = read_structure(model)
    return Blueprint(
        key=BaseKey(
            model_name_or_path=_identity(source),
            revision=getattr(config, "_commit_hash", None) or spec.revision,
            dtype=dtype,
        ),
        config=config,
        structure=structure,
        problems=(*problems, *base_problems(structure, config, name)),
    )


def read_config(spec: ModelSpec) -> PretrainedConfig:
    """The base's config.json, with the commit it is from in `_commit_hash` when it came from a hub.

    Raises:
        BaseModelError: There is no such folder or hub model, or it cannot be read.
    """
    name = confinement.model_source(spec.model_name_or_path)
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
        source = confinement.settled_source(key.model_name_or_path)
        tokenizer = AutoTokenizer.from_pretrained(source, revision=key.revision)
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
            tokenizer.chat_template = read_template(confinement.template_source(spec.chat_template_path))
        except (OSError, ValueError) as error:
            raise BaseModelError(
                f"the chat template cannot be read: {error}", field="model.chat_template_path"
            ) from error
    return tokenizer


class BaseModel:
    """One frozen base on one device, ready to run packs of rows through per-row adapters.

    Always in evaluation mode: the base's own dropouts would draw from the global generator.
    """

    def __init__(self, model: PreTrainedModel, key: BaseKey, device: torch.device | str = "cpu") -> None:
        """Take over a loaded model: freeze it and install the multi-adapter layers."""
        self.key = key
        self.device = torch.device(device)
        if model.get_output_embeddings() is None:
            raise BaseModelError(f"{type(model).__name__} has no output head", value=key.model_name_or_path)
        self.structure = read_structure(model)
        self.shapes = self.structure.shapes
        self.module_names = self.structure.module_names
        self.model = model.to(self.device).eval().requires_grad_(False)  # pyright: ignore[reportArgumentType]
        self.groups = find_input_groups(self.model, self.shapes)
        self._bare = share_weights(self.model)
        self._lanes = [Lane(self.model, tuple(self.shapes), self.groups)]
        probe = Probe(self._lanes[0], self.vocab_size)
        self.layout = "packed" if probe.can_pack() else "padded"
        if probe.sees_later_tokens(self.lay_out):
            raise BaseModelError(
                f"in {type(model).__name__} a token sees those that come after it, so it would read off what it is to "
                "predict; name a base that was made to predict the next token",
                value=key.model_name_or_path,
            )
        self.has_plain_head = self._lanes[0].plain_head = probe.has_plain_head(self.lay_out)
        self.structure = replace(self.structure, plain_head=self.has_plain_head)

    @classmethod
    def load(cls, key: BaseKey, device: torch.device | str = "cpu") -> BaseModel:
        """Read the weights from a folder or a hub.

        Raises:
            BaseModelError: The weights are missing or broken, or the device has no room for them.
        """
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                confinement.settled_source(key.model_name_or_path),
                revision=key.revision,
                dtype=DTYPES[key.dtype],
                # Tensor by tensor from the file to the device: the host never holds the whole base.
                device_map={"": torch.device(device)},
                output_loading_info=True,
            )
        except Exception as error:  # the libraries below raise types of their own for broken files
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise BaseModelError(f"the weights cannot be loaded: {first}", value=key.model_name_or_path) from error
        model, found = loaded
        if missing := sorted(found["missing_keys"]):
            raise BaseModelError(
                f"{len(missing)} tensors of {type(model).__name__} are not among the weights, the first is "
                f"{missing[0]}; they would be random numbers. The weights are of another model than config.json says",
                value=key.model_name_or_path,
            )
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

    @property
    def lay_out(self) -> layout.LayOut:
        """How the rows of a pack become this model's input."""
        return layout.packed if self.layout == "packed" else layout.padded

    @property
    def can_checkpoint(self) -> bool:
        """Whether gradient checkpointing has layers to work on."""
        return self._lanes[0].can_checkpoint

    def lanes(self, count: int) -> list[Lane]:
        """The first `count` lanes through this base; a lane costs a tree of modules and no weights."""
        while len(self._lanes) < count:
            lane = Lane(share_weights(self._bare), tuple(self.shapes), self.groups)
            lane.plain_head = self.has_plain_head
            self._lanes.append(lane)
        return self._lanes[:count]

    def label_logits(self, rows: Sequence[Row], segments: Sequence[Segment]) -> tuple[Tensor, Tensor, int]:
        """Run rows through the base with the adapters that the segments name.

        Args:
            rows: In pack order.
            segments: Token ranges over the rows end to end, with their adapters.

        Returns:
            logits (N, V) and labels (N,) of all label tokens in pack order, and the number of padding positions.
        """
        return self._lanes[0].label_logits(rows, segments, lay_out=self.lay_out)

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


def _identity(name: str) -> str:
    """A local folder by its full path, so that two spellings of it share one base; a hub id as it is."""
    folder = Path(name)
    return str(folder.resolve()) if folder.is_dir() else name
