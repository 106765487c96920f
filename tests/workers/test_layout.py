"""Both layouts hold the same tokens, and predict the same labels from the same positions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.models import make_rows
from workers.dataset import Row
from workers.layout import packed, padded
from workers.loss import exact_rows, job_sums, token_losses

CPU = torch.device("cpu")
LENGTHS = (4, 2, 7, 3)


def rows() -> list[Row]:
    return list(make_rows(1, LENGTHS))


def test_packed_rows_stand_end_to_end_and_positions_restart() -> None:
    pack = packed(rows(), CPU)
    assert pack.inputs["input_ids"].tolist() == [np.concatenate([row.ids for row in rows()]).tolist()]
    assert pack.inputs["position_ids"].tolist() == [[*range(4), *range(2), *range(7), *range(3)]]
    assert pack.inputs["row_lengths"] == LENGTHS
    assert pack.num_padding == 0
    assert pack.token_index_T is None
    assert "attention_mask" not in pack.inputs


def test_padded_rows_stand_side_by_side_with_padding_behind() -> None:
    pack = padded(rows(), CPU)
    ids, mask = pack.inputs["input_ids"], pack.inputs["attention_mask"]
    assert ids.shape == mask.shape == (4, 7)
    for number, row in enumerate(rows()):
        assert ids[number, : len(row.ids)].tolist() == row.ids.tolist()
        assert mask[number].tolist() == [1] * len(row.ids) + [0] * (7 - len(row.ids))
    assert pack.num_padding == 4 * 7 - sum(LENGTHS)
    assert pack.token_index_T is not None
    assert ids.flatten()[pack.token_index_T].tolist() == np.concatenate([row.ids for row in rows()]).tolist()


def test_padded_rows_of_one_length_have_no_padding_to_skip() -> None:
    pack = padded(list(make_rows(1, (3, 3))), CPU)
    assert pack.token_index_T is None
    assert pack.num_padding == 0


@pytest.mark.parametrize("lay_out", [packed, padded])
def test_each_label_is_predicted_from_the_token_before_it(lay_out: type) -> None:
    pack = lay_out(rows(), CPU)
    flat = pack.inputs["input_ids"].flatten()
    expected = [
        (int(row.ids[at - 1]), int(row.ids[at])) for row in rows() for at in np.flatnonzero(row.labelled).tolist()
    ]
    assert list(zip(flat[pack.predict_N].tolist(), pack.labels_N.tolist(), strict=True)) == expected
    assert (flat[pack.predict_N + 1] == pack.labels_N).all()


def test_a_padding_id_among_the_labels_counts_as_any_other() -> None:
    """Padding is known by its place: id 0 is a word like others, and many tokenizers pad with their end token."""
    row = Row(index=0, ids=np.zeros(3, dtype=np.int64), labelled=np.array([False, True, True]))
    longer = Row(index=1, ids=np.ones(5, dtype=np.int64), labelled=np.array([False, False, True, False, True]))
    assert padded([row, longer], CPU).labels_N.tolist() == packed([row, longer], CPU).labels_N.tolist() == [0, 0, 1, 1]


def test_losses_are_cross_entropies_in_fp32_or_better() -> None:
    logits = torch.randn(5, 11, dtype=torch.float64)
    labels = torch.tensor([0, 10, 3, 3, 7])
    expected = -logits.log_softmax(-1)[range(5), labels]
    assert (token_losses(logits, labels) - expected).abs().max() <= 1e-14
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        rounded = logits.to(dtype)
        losses = token_losses(rounded, labels)
        assert losses.dtype == torch.float32
        exact = -rounded.double().log_softmax(-1)[range(5), labels]
        assert (losses.double() - exact).abs().max() <= 1e-6


def test_each_jobs_sum_and_gradient_is_of_its_own_tokens() -> None:
    losses = torch.tensor([1.0, 2.0, float("nan"), 4.0, 5.0], requires_grad=True)
    sums = job_sums(losses, [2, 1, 2])
    assert [sums[0].item(), sums[2].item()] == [3.0, 9.0]
    assert sums[1].isnan()
    (sums[0] / 2 + sums[1] / 7 + sums[2] / 4).backward()
    assert losses.grad is not None
    assert losses.grad.tolist() == pytest.approx([0.5, 0.5, 1 / 7, 0.25, 0.25])


def test_a_row_is_exact_when_every_one_of_its_labels_is_the_likeliest() -> None:
    hits = torch.tensor([True, True, True, True, False])
    assert exact_rows(hits, [2, 1, 2]) == [True, True, False]
