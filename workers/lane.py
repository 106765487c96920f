"""A lane: one thread's way through the frozen base.

Lanes share every weight and nothing else: each has its own tree of modules, with its own router, so several packs can
run through one base at the same time. On a CPU that is how cores are filled: many small products gain little from two
threads in each of them and lose the time in which the threads wait for each other; a thread per lane, with the jobs of
the pack spread over the lanes, has nothing to wait for.

Shape legend: T tokens of a pack, N label tokens, D width, V vocabulary.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.pytorch_utils import Conv1D

from workers import attention, layout
from workers.dataset import Row
from workers.head_adapter import adapted_head_losses, adapted_logits, find_head_runs
from workers.lora import MultiAdapterLinear, Router, Segment
from workers.loss import LabelLosses, head_losses, logit_losses
from workers.products import linear


def share_weights(model: PreTrainedModel) -> PreTrainedModel:
    """A second tree of modules over the same parameters, buffers and configuration."""
    shared: list[Any] = [*model.parameters(), *model.buffers()]
    shared += [module.config for module in model.modules() if hasattr(module, "config")]
    return copy.deepcopy(model, {id(one): one for one in shared})


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

    @property
    def bias(self) -> Tensor | None:
        """The head's bias, likewise."""
        return getattr(self.head, "bias", None)

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        """(B, T, D) to (1, N, V), or to (B, T, V) with nothing selected."""
        if self.predict_N is not None:
            hidden_BTD = hidden_BTD.reshape(-1, hidden_BTD.shape[-1])[self.predict_N][None]
        if isinstance(self.head, nn.Linear):
            return linear(hidden_BTD, self.head.weight, self.head.bias)
        return self.head(hidden_BTD)


class Lane:
    """One tree of modules over the shared weights, with multi-adapter layers. For one thread at a time."""

    def __init__(self, tree: PreTrainedModel, names: Sequence[str], groups: Sequence[tuple[str, ...]]) -> None:
        """Take over a tree: its linears become multi-adapter ones.

        Args:
            tree: A frozen model.
            names: Of the linears that can carry adapters.
            groups: Its input groups.
        """
        self.tree = tree
        self.router = Router(groups)
        self.plain_head = False
        """Whether the model's logits are its head's and nothing else, so that losses can be had chunk by chunk."""
        self._checkpointing = False
        layers = {}
        for name in names:
            parent_name, _, child = name.rpartition(".")
            parent = tree.get_submodule(parent_name)
            original = getattr(parent, child)
            assert isinstance(original, nn.Linear | Conv1D)
            layers[name] = MultiAdapterLinear(original, name, self.router).to(tree.device)
            setattr(parent, child, layers[name])
        for first, *others in groups:
            layers[first].lead([layers[name] for name in others])
        self._layers = tuple(layers.values())
        head = tree.get_output_embeddings()
        assert isinstance(head, nn.Module)
        self._head_name = next(name for name, module in tree.named_modules() if module is head)
        self._head = LabelHead(head)
        tree.set_output_embeddings(self._head)  # pyright: ignore[reportArgumentType]
        self.can_checkpoint = False
        """Whether the base is made of layers whose activations can be computed again in the backward."""
        for module in tree.modules():
            if isinstance(module, GradientCheckpointingLayer):
                self.can_checkpoint = True
                module.forward = functools.partial(self._layer, module.forward)

    def train(
        self,
        rows: Sequence[Row],
        segments: Sequence[Segment],
        weights: Sequence[float],
        *,
        lay_out: layout.LayOut,
        checkpointing: bool = False,
        deterministic: bool = False,
    ) -> LabelLosses:
        """Forward and backward; gradients are added to the adapters of the segments.

        Args:
            rows: In pack order.
            segments: Token ranges over the rows end to end, with their adapters.
            weights: For each row, what each of its label tokens counts in the loss.
            lay_out: How rows become the model's input.
            checkpointing: Keep only the borders of layers and compute the rest again.
            deterministic: Use only attention whose backward gives the same bits each time; slower on a GPU.
        """
        self._checkpointing = checkpointing
        try:
            kernels = attention.deterministic_kernels(self.tree.device) if deterministic else nullcontext()
            with torch.enable_grad(), kernels:
                losses = self._losses(rows, segments, weights, lay_out, deterministic=deterministic)
                losses.total.backward()
            return losses
        finally:
            self._checkpointing = False
            self._forget()

    def evaluate(self, rows: Sequence[Row], segments: Sequence[Segment], *, lay_out: layout.LayOut) -> LabelLosses:
        """Forward alone, every label with weight one."""
        try:
            with torch.no_grad():
                return self._losses(rows, segments, [1.0] * len(rows), lay_out)
        finally:
            self._forget()

    def label_logits(
        self, rows: Sequence[Row], segments: Sequence[Segment], *, lay_out: layout.LayOut
    ) -> tuple[Tensor, Tensor, int]:
        """Logits (N, V) and labels (N,) of all label tokens in pack order, and the number of padding positions."""
        pack = lay_out(rows, self.tree.device)
        self.router.route(segments, pack.token_index_T)
        runs = find_head_runs(rows, segments, self._head_name)
        try:
            if runs is not None:
                head = self._plain_head
                logits_NV = adapted_logits(self._hidden(pack), head.weight, head.bias, runs)
                return logits_NV, pack.labels_N, pack.num_padding
            return self.pack_logits(pack), pack.labels_N, pack.num_padding
        finally:
            self._forget()

    def pack_logits(self, pack: layout.LaidOut) -> Tensor:
        """Logits (N, V) by the model's own forward, adapters as routed."""
        self._head.predict_N = pack.predict_N
        try:
            return self.tree(**pack.inputs, use_cache=False).logits[0]
        finally:
            self._head.predict_N = None

    def head_logits(self, pack: layout.LaidOut) -> Tensor:
        """Logits (N, V) by the model's body and the bare head."""
        return linear(self._hidden(pack), self._head.head.weight, self._head.head.bias)  # pyright: ignore[reportArgumentType]

    @property
    def has_linear_head(self) -> bool:
        """Whether the head is a linear like any other."""
        return isinstance(self._head.head, nn.Linear)

    def _losses(
        self,
        rows: Sequence[Row],
        segments: Sequence[Segment],
        weights: Sequence[float],
        lay_out: layout.LayOut,
        *,
        deterministic: bool = False,
    ) -> LabelLosses:
        pack = lay_out(rows, self.tree.device)
        if deterministic and "row_lengths" in pack.inputs:
            # Beside the kernels allowed now: the backward of a recomputed layer runs in a thread of autograd's own.
            pack.inputs["deterministic"] = True
        self.router.route(segments, pack.token_index_T)
        weights_N = torch.tensor(weights, dtype=torch.float64).repeat_interleave(
            torch.tensor([row.num_labels for row in rows])
        )
        weights_N = weights_N.to(self.tree.device)
        if not self.plain_head:
            return logit_losses(self.pack_logits(pack), pack.labels_N, weights_N)
        head = self._plain_head
        runs = find_head_runs(rows, segments, self._head_name)
        if runs is not None:
            hidden_ND = self._hidden(pack)
            return adapted_head_losses(hidden_ND, head.weight, head.bias, pack.labels_N, weights_N, runs)
        return head_losses(self._hidden(pack), head.weight, head.bias, pack.labels_N, weights_N)

    @property
    def _plain_head(self) -> nn.Linear:
        assert self.plain_head
        assert isinstance(self._head.head, nn.Linear)
        return self._head.head

    def _hidden(self, pack: layout.LaidOut) -> Tensor:
        """(N, D) of the positions that predict a label."""
        hidden_BTD: Tensor = self.tree.base_model(**pack.inputs, use_cache=False).last_hidden_state
        return hidden_BTD.reshape(-1, hidden_BTD.shape[-1])[pack.predict_N]

    def _layer(self, forward: Any, *args: Any, **kwargs: Any) -> Any:
        if not self._checkpointing or not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        # Nothing random runs inside but the adapters' own dropout, which needs no generator's state.
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    def _forget(self) -> None:
        """Let go of the pack, whatever became of it."""
        self.router.clear()
        for layer in self._layers:
            layer.forget()
