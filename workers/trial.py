"""A forward of a base without its weights, to see what it does with text.

The weights are on torch's meta device and cost nothing. What a model computes from shapes alone, positions and masks
above all, is computed for real beside them, so that it can be looked at: which rows of a table of positions N
tokens ask for, who sees whom in each attention layer, which linears text passes at all.

Shape legend: t tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map
from transformers import AttentionInterface, PretrainedConfig, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

_WATCHED = "loraloom_trial"
"""Name under which transformers finds the attention that only looks on."""
TOKENS = 12
_WINDOW = 4
"""What windows and chunks of attention are cut to, so that so few tokens reach beyond them."""
_WINDOWS = ("sliding_window", "attention_chunk_size", "window_size", "local_attention")
_FACTORIES = (torch.arange, torch.ones, torch.zeros, torch.full, torch.empty, torch.tensor)
_LOOK_UPS = (
    torch.nn.functional.embedding,
    torch.index_select,
    Tensor.index_select,
    torch.gather,
    Tensor.gather,
    Tensor.__getitem__,
)
"""Operations that look rows of a table up by their index."""


@dataclass(frozen=True, kw_only=True)
class Attention:
    """One call of an attention layer."""

    module: nn.Module
    sees_tt: Tensor | None
    """Boolean: the token of the row sees that of the column; `None` where the model passes no mask that is known."""
    window: int | None
    """What the model passes on as `sliding_window`."""
    causal: bool


_CALLS: ContextVar[list[Attention]] = ContextVar("attention calls")
"""Of the trial under way in this thread; transformers knows one function by our name."""


@dataclass(kw_only=True)
class Trial:
    """What was seen."""

    complete: bool = False
    """Whether the forward came to its end. Where one depends on the numbers, it cannot."""
    called: set[str] = field(default_factory=set)
    """Linears that ran."""
    most_positions: int | None = None
    """Tokens that a row may have, by the smallest table of positions; `None` where there is none."""
    attentions: list[Attention] = field(default_factory=list)
    plain_head: bool | None = None
    """Whether logits are the head's output, and its input the body's; `None` if it is not known."""

    @property
    def sees_later_tokens(self) -> bool:
        """Whether a token sees one that comes after it."""
        return any(one.sees_tt is not None and bool(one.sees_tt.triu(1).any()) for one in self.attentions)


def with_short_windows(config: PretrainedConfig) -> PretrainedConfig:
    """A copy of a base's config in which local attention reaches over a few tokens only."""
    short = copy.deepcopy(config)
    for one in {id(part): part for part in (short, short.get_text_config())}.values():
        for name in _WINDOWS:
            if isinstance(value := getattr(one, name, None), int) and not isinstance(value, bool) and value > _WINDOW:
                setattr(one, name, _WINDOW)
    return short


def on_meta(model: PreTrainedModel) -> PreTrainedModel:
    """The same modules over weights that hold nothing."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    empty: dict[int, Any] = {}
    for _, tensor in tensors:
        one = torch.empty_like(tensor, device="meta")
        empty[id(tensor)] = nn.Parameter(one, requires_grad=False) if isinstance(tensor, nn.Parameter) else one
    return copy.deepcopy(model, empty)


def try_out(model: PreTrainedModel, linears: dict[str, nn.Module], *, tokens: int = TOKENS) -> Trial:
    """Run a few tokens through a model on the meta device, which is not used for anything else afterwards.

    Args:
        model: From a config, or from `on_meta`.
        linears: Modules whose calls are of interest, by name.
        tokens: In the row that is run.
    """
    trial = Trial()
    _watch_attention(model)
    for module in model.modules():
        if isinstance(config := getattr(module, "config", None), PretrainedConfig):
            # The loop over experts asks which tokens came to each; the batched product does not.
            config._experts_implementation = "batched_mm"
    for name, module in linears.items():
        module.register_forward_pre_hook(lambda *_, name=name: trial.called.add(name))
    bodies: list[Tensor | None] = []
    heads: list[tuple[Tensor, Tensor]] = []
    for name, module in model.named_modules():
        if name and isinstance(module, PreTrainedModel):
            module.register_forward_hook(lambda *seen: bodies.append(getattr(seen[2], "last_hidden_state", None)))
    head = model.get_output_embeddings()
    if isinstance(head, nn.Module):
        head.register_forward_hook(lambda *seen: heads.append((seen[1][0], seen[2])))
    _number_positions(model)
    ids = torch.full((1, tokens), _some_id(model.config), dtype=torch.long)
    watch = _Watch([*model.parameters(), *model.buffers()], tokens)
    calls = _CALLS.set(trial.attentions)
    try:
        with torch.no_grad(), watch:
            logits = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
        trial.complete = True
    except Exception:  # whatever a model's own code cannot do without numbers; what was seen until there is kept
        logits = None
    finally:
        _CALLS.reset(calls)
    trial.most_positions = watch.most_positions
    if logits is not None and heads:
        inner, outer = heads[-1]
        trial.plain_head = outer is logits and any(
            body is not None and body.untyped_storage()._cdata == inner.untyped_storage()._cdata for body in bodies
        )
    return trial


def _number_positions(model: nn.Module) -> None:
    """Give back their values to the buffers that BERT and others take their positions from."""
    for module in model.modules():
        buffer = module._buffers.get("position_ids")
        if buffer is not None and not buffer.is_floating_point():
            module._buffers["position_ids"] = torch.arange(buffer.shape[-1]).expand(buffer.shape)


def _some_id(config: PretrainedConfig) -> int:
    """An id that is no padding, which some models count no position for."""
    padding = getattr(config.get_text_config(), "pad_token_id", None)
    return next(id_ for id_ in (3, 4) if id_ != padding)


def _watch_attention(model: PreTrainedModel) -> None:
    """Let the model's attention layers tell what they are asked, where they go through transformers' interface."""
    AttentionInterface.register(_WATCHED, _attend)
    AttentionMaskInterface.register(_WATCHED, _every_mask)
    with suppress(ValueError, TypeError, AttributeError, ImportError):
        model.set_attn_implementation(_WATCHED)


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **given: Any
) -> tuple[Tensor, None]:
    """Note what an attention layer asks for, and answer in the right shape."""
    causal = given.get("is_causal")
    known = attention_mask is not None and not attention_mask.is_meta
    _CALLS.get().append(
        Attention(
            module=module,
            sees_tt=attention_mask[0, 0].bool() if known else None,  # pyright: ignore[reportOptionalSubscript]
            window=given.get("sliding_window"),
            causal=getattr(module, "is_causal", True) if causal is None else causal,
        )
    )
    return query.new_empty(query.shape[0], query.shape[2], query.shape[1], value.shape[3]), None


def _every_mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """The mask written out, which sdpa is otherwise spared where it is the plain causal one."""
    return sdpa_mask(
        *args, **{**kwargs, "allow_is_causal_skip": False, "allow_is_bidirectional_skip": False, "attention_mask": None}
    )


class _Watch(TorchFunctionMode):
    """Keeps on the CPU, with its values, what depends on no weight, and notes where positions index a weight."""

    def __init__(self, weights: list[Tensor], tokens: int) -> None:
        super().__init__()
        self._tokens = tokens
        self.most_positions: int | None = None
        self._weights = {weight.untyped_storage()._cdata for weight in weights}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _FACTORIES and kwargs.get("device") is not None:
            return func(*args, **{**kwargs, "device": "cpu"})
        if func is Tensor.to:
            return _to_type(*args, **kwargs)
        found: list[Tensor] = []
        tree_map(lambda one: found.append(one) if isinstance(one, Tensor) else None, (args, kwargs))
        if any(one.is_meta for one in found):
            if func in _LOOK_UPS:
                self._note(args, kwargs, found)
            meta: Any = tree_map(lambda one: one.to("meta") if isinstance(one, Tensor) else one, (args, kwargs))
            return func(*meta[0], **meta[1])
        return func(*args, **kwargs)

    def _note(self, args: tuple[Any, ...], kwargs: dict[str, Any], found: list[Tensor]) -> None:
        weights = [one for one in found if one.is_meta and one.untyped_storage()._cdata in self._weights]
        indices = [one for one in found if not one.is_meta and one.dtype in (torch.int64, torch.int32)]
        if len(weights) != 1 or len(indices) != 1 or indices[0].numel() < self._tokens:
            return
        index = indices[0].reshape(-1)[-self._tokens :]
        if not torch.equal(index - index[0], torch.arange(self._tokens)):
            return
        dim = kwargs.get("dim", args[1] if len(args) > 1 and isinstance(args[1], int) else 0)
        most = weights[0].shape[dim] - int(index[0])
        self.most_positions = most if self.most_positions is None else min(self.most_positions, most)


def _to_type(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """`Tensor.to` without its device: values stay where they are known."""
    types = [one.dtype if isinstance(one, Tensor) else one for one in (*args, kwargs.get("dtype"))]
    dtype = next((one for one in types if isinstance(one, torch.dtype)), None)
    return tensor if dtype is None or dtype == tensor.dtype else tensor.to(dtype)
