"""What a base is made of and what text does in it, from its modules alone: no weights are read."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.pytorch_utils import Conv1D

from workers.trial import Trial, on_meta, try_out

_COUNTS_OF_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_BOTH_WAYS = ("xlnet", "xlm", "flaubert")
"""Models that see later tokens by masks of their own, unless their config has a `causal` that is true."""
_LONGEST_ROW = {"mpt": "max_seq_len"}
"""Models that reckon positions for so many tokens and no more, without a table that could be seen."""


@dataclass(frozen=True, kw_only=True)
class LinearShape:
    """A linear of the base that can carry adapters."""

    in_features: int
    out_features: int
    is_conv1d: bool = False


@dataclass(frozen=True, kw_only=True)
class Experts:
    """The experts of a mixture, kept as parameters of three dimensions."""

    names: tuple[str, ...]
    """Of the parameters within a layer, such as `mlp.experts.gate_up_proj`."""
    num_parameters: int
    """In one layer."""
    layer_parameters: int
    """All of that layer's."""


@dataclass(frozen=True, kw_only=True)
class Structure:
    """What can be known of a base without its weights."""

    shapes: dict[str, LinearShape]
    """The linears that text passes, by full module name in the model's order, the output head left out."""
    beside_text: frozenset[str]
    """Linears that text does not pass: towers for images and sound, attention to an encoder."""
    module_names: frozenset[str]
    num_parameters: int
    num_ids: int
    """Token ids that it knows: rows of the input embedding, or of the head where that has fewer."""
    embedding: str
    """The input embedding's module name."""
    head: str | None
    """The output head's module name, where it is a linear."""
    head_shape: LinearShape | None
    head_is_tied: bool
    """The head's weight is the input embedding's."""
    plain_head: bool
    """Logits are the head's product with the body's last hidden state, so that they can be had chunk by chunk."""
    most_positions: int | None
    """Tokens that a row may have, where positions come from a table."""
    usual_positions: int | None
    """`max_position_embeddings` where positions are computed: the base was not made for longer rows, yet takes them."""
    sees_later_tokens: bool
    experts: Experts | None

    @property
    def adaptable(self) -> dict[str, LinearShape]:
        """The linears that can carry adapters, the output head last where it can."""
        if self.head is None or self.head_shape is None or self.head_is_tied or not self.plain_head:
            return self.shapes
        return {**self.shapes, self.head: self.head_shape}


_KNOWN: dict[tuple[object, ...], Structure] = {}
"""Read already: a checker meets the same bases again and again."""
_MOST_KNOWN = 16


def linears(model: PreTrainedModel) -> dict[str, LinearShape]:
    """Every linear of the model by full module name, the output head left out. Works on the meta device too."""
    head = model.get_output_embeddings()
    return {name: _shape(module) for name, module in model.named_modules() if _is_linear(module) and module is not head}


def read_structure(model: PreTrainedModel) -> Structure:
    """Look at a model's modules, and at what a few tokens do in a copy of them without weights."""
    key = (type(model), model.config.to_json_string(), tuple(_outline(model)))
    found = _KNOWN.get(key)
    if found is None:
        found = _KNOWN[key] = _read(model)
        while len(_KNOWN) > _MOST_KNOWN:
            del _KNOWN[next(iter(_KNOWN))]
    return found


def _outline(model: PreTrainedModel) -> Iterator[object]:
    """What the structure depends on beside the config."""
    for name, module in model.named_modules():
        yield name, type(module)
    for name, parameter in model.named_parameters():
        yield name, tuple(parameter.shape)


def _read(model: PreTrainedModel) -> Structure:
    watched = on_meta(model)
    trial = try_out(watched, {name: module for name, module in watched.named_modules() if _is_linear(module)})
    config = model.config.get_text_config()
    every = linears(model)
    # Where the forward could not be followed to its end, nothing is known to be passed by.
    reached = {name: shape for name, shape in every.items() if name in trial.called} if trial.complete else every
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    table = _longest_row(config)
    tables = [most for most in (_most_positions(model, trial), table) if most is not None]
    is_linear_head = _is_linear(head)
    return Structure(
        shapes=reached,
        beside_text=frozenset(every) - frozenset(reached),
        module_names=frozenset(name for name, _ in model.named_modules() if name),
        num_parameters=model.num_parameters(),
        num_ids=min(part.weight.shape[0] for part in (embedding, head) if part is not None),  # pyright: ignore
        embedding=next(name for name, module in model.named_modules() if module is embedding),
        head=next((name for name, module in model.named_modules() if module is head), None) if is_linear_head else None,
        head_shape=_shape(head) if is_linear_head and head is not None else None,
        head_is_tied=head is not None and head.weight is embedding.weight,
        plain_head=trial.plain_head is not False,
        most_positions=min(tables, default=None),
        usual_positions=None if tables else _usual_positions(config),
        sees_later_tokens=trial.sees_later_tokens or _sees_both_ways(config),
        experts=_experts(model, config),
    )


def _is_linear(module: nn.Module | None) -> bool:
    """Whether a module is the product with its weight and nothing else."""
    if not isinstance(module, nn.Linear | Conv1D):
        return False
    return type(module).forward in (nn.Linear.forward, Conv1D.forward) or _multiplies(module)


def _multiplies(module: nn.Linear | Conv1D) -> bool:
    """Whether a linear with a forward of its own gives the plain product; some routers give more."""
    if isinstance(module, Conv1D):
        return False
    small = copy.copy(module)
    weight_32, x_42 = torch.arange(6.0).view(3, 2), torch.arange(8.0).view(4, 2)
    bias_3 = None if module.bias is None else torch.ones(3)
    small._parameters = {
        "weight": nn.Parameter(weight_32),
        "bias": None if bias_3 is None else nn.Parameter(bias_3),
    }
    try:
        with torch.no_grad():
            found = small(x_42)
    except Exception:  # it wants more than a weight
        return False
    return isinstance(found, torch.Tensor) and torch.equal(found, nn.functional.linear(x_42, weight_32, bias_3))


def _shape(module: nn.Module) -> LinearShape:
    if isinstance(module, Conv1D):
        rows, columns = module.weight.shape
        return LinearShape(in_features=rows, out_features=columns, is_conv1d=True)
    assert isinstance(module, nn.Linear)
    return LinearShape(in_features=module.in_features, out_features=module.out_features)


def _usual_positions(config: PretrainedConfig) -> int | None:
    value = getattr(config, "max_position_embeddings", None)
    return value if isinstance(value, int) and value > 0 else None


def _most_positions(model: PreTrainedModel, trial: Trial) -> int | None:
    """What the smallest table of positions allows, unless the model makes it longer when it has to."""
    most = trial.most_positions
    if most is None:
        return None
    beyond = try_out(on_meta(model), {}, tokens=most + 1)
    grown = beyond.complete and (beyond.most_positions is None or beyond.most_positions > most)
    return None if grown else most


def _longest_row(config: PretrainedConfig) -> int | None:
    name = _LONGEST_ROW.get(config.model_type)
    return getattr(config, name) if name else None


def _sees_both_ways(config: PretrainedConfig) -> bool:
    return config.model_type in _BOTH_WAYS and not getattr(config, "causal", False)


def _experts(model: PreTrainedModel, config: PretrainedConfig) -> Experts | None:
    """The largest layer's experts, if the base has any that are no linears."""
    counts = {getattr(config, name, None) for name in _COUNTS_OF_EXPERTS} - {None}
    found = None
    for layer in model.modules():
        if not isinstance(layer, GradientCheckpointingLayer):
            continue
        own = {n: p.numel() for n, p in layer.named_parameters() if p.dim() == 3 and p.shape[0] in counts}
        if own and (found is None or sum(own.values()) > found.num_parameters):
            found = Experts(
                names=tuple(own),
                num_parameters=sum(own.values()),
                layer_parameters=sum(parameter.numel() for parameter in layer.parameters()),
            )
    return found
