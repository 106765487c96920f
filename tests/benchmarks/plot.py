"""The ratios of a run as bars: what packing gains over PEFT, and how near it comes to the floor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.benchmarks.setting import MAX_LENGTH, RANK

matplotlib.use("Agg")

_OVER_PEFT = {
    "packed_over_peft": ("packed / PEFT job after job", "#1f6f8b"),
    "packed_over_peft_processes": ("packed / PEFT processes side by side", "#e07a3f"),
    "floor_over_peft": ("floor / PEFT job after job: the most there is to gain", "#c9c9c9"),
}
_OVER_FLOOR = {"packed_over_floor": ("packed / floor", "#4c9f70")}


def draw(results: Sequence[dict[str, Any]], file: Path) -> None:
    """Write a PNG: a row of panels a dtype, a group of bars a line of the benchmark.

    Args:
        results: Lines of `throughput`; ratios that are `None` get no bar.
        file: Where to; its folder is made.
    """
    dtypes = list(dict.fromkeys(result["dtype"] for result in results))
    most = max(len([result for result in results if result["dtype"] == dtype]) for dtype in dtypes)
    figure = Figure(figsize=(max(11.0, 5.5 + 1.3 * most), 0.9 + 3.3 * len(dtypes)), layout="constrained")
    panels = figure.subplots(len(dtypes), 2, squeeze=False, width_ratios=[2, 1])
    for (over_peft, over_floor), dtype in zip(panels, dtypes, strict=True):
        lines = [result for result in results if result["dtype"] == dtype]
        _bars(over_peft, lines, _OVER_PEFT, f"{dtype}: times PEFT's tokens a second")
        _bars(over_floor, lines, _OVER_FLOOR, f"{dtype}: share of the floor")
        over_floor.set_ylim(top=max(1.1, over_floor.get_ylim()[1]))
    tokens = sum(result["mean_row_tokens"] for result in results) / len(results)
    figure.suptitle(
        f"{results[0]['model']}, r = {RANK} on all linears, about {tokens:.0f} tokens a row (at most {MAX_LENGTH}), "
        f"{results[0]['threads']} threads; medians of {results[0]['repeats']}",
        fontsize=10,
    )
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)


def _bars(panel: Axes, lines: Sequence[dict[str, Any]], series: dict[str, tuple[str, str]], title: str) -> None:
    shown = {name: style for name, style in series.items() if any(line[name] is not None for line in lines)}
    width = 0.8 / len(shown)
    for number, (name, (label, colour)) in enumerate(shown.items()):
        heights = [line[name] or 0.0 for line in lines]
        places = [group + (number - (len(shown) - 1) / 2) * width for group in range(len(lines))]
        bars = panel.bar(places, heights, width * 0.92, label=label, color=colour)
        panel.bar_label(bars, [f"{height:.2f}" if height else "" for height in heights], fontsize=7, padding=1)
    # At 1 packing gains nothing, or has reached all there is.
    panel.axhline(1.0, color="#444444", linewidth=0.8, linestyle="--")
    panel.set_xticks(range(len(lines)), [f"{line['jobs']}×{line['batch_size']}" for line in lines])
    # A single group would otherwise fill the panel with three slabs.
    panel.set_xlim(min(-0.5, (len(lines) - 4) / 2), max(len(lines) - 0.5, len(lines) / 2 + 1))
    panel.set_xlabel("jobs × rows of a micro-batch", fontsize=9)
    panel.set_title(title, fontsize=9, loc="left")
    panel.set_ylim(0, panel.get_ylim()[1] * 1.08)
    panel.spines[["top", "right"]].set_visible(False)
