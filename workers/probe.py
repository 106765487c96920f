"""What a base can do, found by trying it, whatever the model's flags say.

Shape legend: N label tokens, V vocabulary.
"""

from __future__ import annotations

import inspect
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from workers import attention, layout
from workers.dataset import Row
from workers.device_errors import is_of_the_device
from workers.lane import Lane
from workers.trial import try_out, with_short_windows

_LENGTHS = (7, 4, 9)
_POISONED = slice(7, 11)
"""The second row's tokens."""


class Probe:
    """Runs a few random rows through a freshly made lane."""

    def __init__(self, lane: Lane, vocab_size: int) -> None:
        self._lane = lane
        self._vocab_size = vocab_size
        self._model = lane.tree
        generator = np.random.default_rng(0)
        self._rows = [
            Row(index=0, ids=generator.integers(0, vocab_size, length), labelled=np.arange(length) > 0)
            for length in _LENGTHS
        ]

    def can_pack(self) -> bool:
        """Whether rows packed do not see each other and give what each gives alone; if so, they are from now on.

        A model may ignore restarting positions, mix neighbouring tokens by a convolution or a recurrence, or attend
        without asking transformers' interface. All of that shows in numbers. What shows in long rows only, windows
        and chunks of attention, is read off the masks of a base that has short ones.
        """
        if "position_ids" not in inspect.signature(self._model.forward).parameters or not self._masks_are_known():
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
        except (NotImplementedError, TypeError, ValueError, RuntimeError) as error:
            if is_of_the_device(error):
                raise
            packs = False
        if not packs:
            self._model.set_attn_implementation(usual)
        return packs

    def sees_later_tokens(self, lay_out: layout.LayOut) -> bool:
        """Whether the last token of a row changes what the tokens before it predict."""
        row = self._rows[-1]
        ids = row.ids.copy()
        ids[-1] = (ids[-1] + 1) % self._vocab_size
        with torch.no_grad():
            usual, changed = (self._logits(lay_out([one], self._model.device)) for one in (row, replace(row, ids=ids)))
        # False where the base's own numbers are not finite.
        return bool((usual - changed).norm() > self._tolerance * usual.norm())

    def has_plain_head(self, lay_out: layout.LayOut) -> bool:
        """Whether logits are the head's product with the body's last hidden state and nothing is done to them after."""
        if not self._lane.has_linear_head:
            return False
        pack = lay_out(self._rows, self._model.device)
        try:
            with torch.no_grad():
                return torch.equal(self._lane.head_logits(pack).double(), self._logits(pack))
        except (AttributeError, TypeError, ValueError, RuntimeError) as error:
            if is_of_the_device(error):
                raise
            return False

    def _masks_are_known(self) -> bool:
        """Whether packed attention gives rows beyond the base's windows and chunks what the base would."""
        config = self._model.config
        if getattr(config.get_text_config(), "attn_temperature_tuning", False):
            # Llama 4 scales queries by how far from the input's beginning they stand, which is not their row's.
            return False
        try:
            with torch.device("meta"):
                short = type(self._model)(with_short_windows(config))
            seen = try_out(short, {}).attentions
        except Exception:  # a model whose class wants more than its config: nothing is known, so nothing is packed
            return False
        return all(one.sees_tt is None or attention.honours(one.sees_tt, one.window, one.causal) for one in seen)

    @property
    def _tolerance(self) -> float:
        return 1e-3 if self._model.dtype.itemsize >= 4 else 0.1

    def _logits(self, pack: layout.LaidOut) -> Tensor:
        return self._lane.pack_logits(pack).double()

    def _same(self, ours: Tensor, theirs: Tensor) -> bool:
        return bool((ours - theirs).norm() <= self._tolerance * theirs.norm())

    def _leaks(self, pack: layout.LaidOut) -> bool:
        """Whether a row of NaN reaches any other row."""
        inputs = dict(pack.inputs)
        embedded = self._model.get_input_embeddings()(inputs.pop("input_ids")).clone()
        embedded[0, _POISONED] = float("nan")
        finite = self._model(inputs_embeds=embedded, **inputs, use_cache=False).logits[0].isfinite().all(dim=-1)
        finite[_POISONED] = True
        return not bool(finite.all())
