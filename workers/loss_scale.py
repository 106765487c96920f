"""Loss scaling for bases in fp16, whose smallest number is 6e-8: below it, the gradient of a rare token is zero.

A job's loss is a mean over the labels of its optimizer batch, so each label's gradient is its softmax divided by that
number: with 4,096 labels and 32,000 tokens, most of it is lost. Scaling the loss before the backward and the gradient
after it is the remedy of Micikevicius et al. 2017, https://arxiv.org/abs/1710.03740, section 3.2. There the scale is
searched for while training; here it follows from the number of labels, so that it is no state of a run: the same step
has the same scale alone, packed or resumed.
"""

from __future__ import annotations

import torch

_LABEL_WEIGHT = 8
"""What a label's loss weighs after scaling, at least, and less than twice that. Its gradient by the logits is then full
fp16 precision (above 6.1e-5) for every token of probability 7.6e-6 or more, and the gradient by a hidden state, at most
2 · 16 times the norm of a row of the head, stays four orders of magnitude below the largest fp16 number."""


def loss_scale(dtype: torch.dtype, num_labels: int) -> float:
    """The factor on a job's loss in the backward: a power of two, so that taking it out again is exact.

    Args:
        dtype: Of the frozen base, in which gradients flow through it.
        num_labels: Label tokens of the job's whole optimizer batch, by which its loss is divided.
    """
    if dtype != torch.float16:
        return 1.0
    return float(_LABEL_WEIGHT * 2 ** (max(1, num_labels) - 1).bit_length())
