"""What a base can do, found by trying it, whatever the model's flags say.

Shape legend: N label tokens, V vocabulary.
"""

from __future__ import annotations

import inspect

import numpy as np
import torch
from torch import Tensor

from workers import attention, layout
from workers.dataset import Row
from workers.lane import Lane

_LENGTHS = (7, 4, 9)
_POISONED = slice(7, 11)
"""The second row's tokens."""


class Probe:
    """Runs a few random rows through a freshly made lane."""

    def __init__(self, lane: Lane, vocab_size: int) -> None:
        self._lane = lane
        self._model = lane.tree
        generator = np.random.default_rng(0)
        self._rows = [
            Row(index=0, ids=generator.integers(0, vocab_size, length), labelled=np.arange(length) > 0)
            for length in _LENGTHS
        ]

    def can_pack(self) -> bool:
        """Whether rows packed do not see each other and give what each gives alone; if so, they are from now on.

        A model may ignore restarting positions, mix neighbouring tokens by a convolution or a recurrence, or attend
        without asking transformers' interface. All of that shows in numbers.
        """
        if "position_ids" not in inspect.signature(self._model.forward).parameters:
            return False
        attention.register()
        usual = self._model.config._attn_implementation or "eager"
        device = self._model.device
        try:
            with torch.no_grad():
                alone = torch.cat([self._logits(layout.padded([row], device)) for row in self._rows])
                self._model.set_attn_implementation(attention.PACKED_ROWS)
                pack = layout.packed(self._rows, device)
                packs = not self._leaks(pack) and self._same(self._logits(pack), alone)
        except (NotImplementedError, TypeError, ValueError, RuntimeError):
            packs = False
        if not packs:
            self._model.set_attn_implementation(usual)
        return packs

    def has_plain_head(self, lay_out: layout.LayOut) -> bool:
        """Whether logits are the head's product with the body's last hidden state and nothing is done to them after."""
        if not self._lane.has_linear_head:
            return False
        pack = lay_out(self._rows, self._model.device)
        try:
            with torch.no_grad():
                return torch.equal(self._lane.head_logits(pack).double(), self._logits(pack))
        except (AttributeError, TypeError, ValueError, RuntimeError):
            return False

    def _logits(self, pack: layout.LaidOut) -> Tensor:
        return self._lane.pack_logits(pack).double()

    def _same(self, ours: Tensor, theirs: Tensor) -> bool:
        tolerance = 1e-3 if self._model.dtype.itemsize >= 4 else 0.1
        return bool((ours - theirs).norm() <= tolerance * theirs.norm())

    def _leaks(self, pack: layout.LaidOut) -> bool:
        """Whether a row of NaN reaches any other row."""
        inputs = dict(pack.inputs)
        embedded = self._model.get_input_embeddings()(inputs.pop("input_ids")).clone()
        embedded[0, _POISONED] = float("nan")
        finite = self._model(inputs_embeds=embedded, **inputs, use_cache=False).logits[0].isfinite().all(dim=-1)
        finite[_POISONED] = True
        return not bool(finite.all())
