"""Loss curves of a run as one picture."""

from __future__ import annotations

import json
import math
from pathlib import Path

_MOST = 64
"""Curves in one picture; what is beyond stays in the metrics files."""


def plot_losses(metrics: Path, names: list[str], target: Path) -> bool:
    """Draw training and evaluation loss of each job, a small panel each.

    Args:
        metrics: Folder with `<job>.jsonl`.
        names: Jobs in the order in which they are to stand.
        target: PNG to write.

    Returns:
        Whether there was anything to draw.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter, NullFormatter

    histories = [(name, _read(metrics / f"{name}.jsonl")) for name in names]
    histories = [(name, history) for name, history in histories if history][:_MOST]
    if not histories:
        return False
    columns = min(4, math.ceil(math.sqrt(len(histories))))
    lines = math.ceil(len(histories) / columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(3.6 * columns, 2.5 * lines + 0.5), squeeze=False, layout="constrained"
    )
    for panel in axes.flat[len(histories) :]:
        panel.set_visible(False)
    for panel, (name, history) in zip(axes.flat, histories, strict=False):
        train = [(line["step"], line["loss"]) for line in history if line.get("loss") is not None]
        evaluation = [(line["step"], line["eval_loss"]) for line in history if line.get("eval_loss") is not None]
        if train:
            panel.plot(*zip(*train, strict=True), color="#1f77b4", linewidth=1.4, label="train")
        if evaluation:
            panel.plot(
                *zip(*evaluation, strict=True),
                color="#d95f02",
                linestyle=":",
                linewidth=1.0,
                marker="o",
                markersize=4,
                label="eval",
            )
            panel.annotate(
                f"{evaluation[-1][1]:.3f}",
                evaluation[-1],
                textcoords="offset points",
                xytext=(0, 8),
                ha="right",
                fontsize=8,
                color="#a34700",
                bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.8},
            )
        if all(value > 0 for _, value in train + evaluation):
            panel.set_yscale("log")
            panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            panel.yaxis.set_minor_formatter(NullFormatter())
        panel.set_title(name, fontsize=9, loc="left")
        panel.grid(visible=True, alpha=0.25)
        panel.tick_params(labelsize=8)
    figure.supxlabel("optimizer step", fontsize=9)
    figure.supylabel("loss per label token", fontsize=9)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=2, frameon=False, fontsize=9)
    whole = target.with_suffix(".part.png")
    try:
        figure.savefig(whole, dpi=130)
        whole.replace(target)
    finally:
        plt.close(figure)
        whole.unlink(missing_ok=True)
    return True


def _read(path: Path) -> list[dict[str, float]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
