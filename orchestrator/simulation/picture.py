"""A simulation as one picture: waiting, devices' use, what queues had, and the makespan beside its bound."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.simulation.compare import Comparison

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PACKED, _ALONE, _BOUND = "#1f6f8b", "#c98b5e", "#888888"
_QUEUE_COLOURS = ("#1f6f8b", "#e07a3f", "#4c9f70", "#8a6fb0", "#b0a04c")


def draw(comparisons: Sequence[Comparison], file: Path) -> None:
    """Write a PNG.

    Args:
        comparisons: As they were simulated; what is not among them leaves its panel empty.
        file: Where to; its folder is made.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.5, 8.0), layout="constrained")
    waits, busy, makespan, shares = figure.subplots(2, 2).flat
    arriving = [one for one in comparisons if one.workload.load is not None and one.alone is not None]
    _pairs(
        waits,
        arriving,
        [(one.packed.wait_p95_seconds / 60, one.alone.wait_p95_seconds / 60) for one in arriving if one.alone],
        "waiting, p95 (minutes, logarithmic)",
    )
    # A job waits for the next turn at least; below that there is nothing to see.
    waits.set_yscale("log")
    _pairs(
        busy,
        arriving,
        [(one.packed.effective, one.alone.effective) for one in arriving if one.alone],
        "speed, as a share of full packs on all devices",
    )
    _makespans(makespan, [one for one in comparisons if one.bound_seconds is not None])
    contended = [one for one in comparisons if one.workload.all_high_in is not None]
    _shares(shares, contended[-1] if contended else None)
    handles, labels = waits.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper right", ncols=2, frameon=False, fontsize=9)
    devices = comparisons[0].num_devices
    figure.suptitle(f"Simulated: {devices} devices, {comparisons[0].packed.jobs:,} jobs a workload", x=0.01, ha="left")
    file.parent.mkdir(parents=True, exist_ok=True)
    whole = file.with_suffix(".part.png")
    figure.savefig(whole, dpi=130)
    whole.replace(file)


def _pairs(panel: Axes, lines: Sequence[Comparison], values: Sequence[tuple[float, float]], title: str) -> None:
    for number, (label, colour) in enumerate((("packed", _PACKED), ("one job per device", _ALONE))):
        places = [group + (number - 0.5) * 0.38 for group in range(len(lines))]
        heights = [pair[number] for pair in values]
        bars = panel.bar(places, heights, 0.35, label=label, color=colour)
        panel.bar_label(
            bars, [f"{height:#.2g}".rstrip(".") if height < 100 else f"{height:,.0f}" for height in heights], fontsize=8
        )
    panel.set_xticks(range(len(lines)), [f"micro-batch {one.workload.micro_batch}" for one in lines], fontsize=9)
    _finish(panel, title)
    panel.margins(y=0.12)


def _makespans(panel: Axes, lines: Sequence[Comparison]) -> None:
    for one in lines[:1]:
        assert one.bound_seconds is not None
        rows = [("lower bound", one.bound_seconds, _BOUND), ("packed", one.packed.makespan_seconds, _PACKED)]
        if one.alone is not None:
            rows.append(("one job per device", one.alone.makespan_seconds, _ALONE))
        bars = panel.barh([row[0] for row in rows], [row[1] / 3600 for row in rows], color=[row[2] for row in rows])
        ratios = [row[1] / one.bound_seconds for row in rows]
        panel.bar_label(bars, [f"{ratio:.2f}×" for ratio in ratios], fontsize=9, padding=3)
        panel.invert_yaxis()
        panel.margins(x=0.12)
    _finish(panel, "all jobs at time 0: makespan (hours) and its multiple of the bound", axis="x")


def _shares(panel: Axes, one: Comparison | None) -> None:
    if one is not None:
        samples = one.history.samples
        weights = {queue.name: queue.weight for queue in one.workload.queues}
        step = 6
        for colour, name in zip(_QUEUE_COLOURS, weights, strict=False):
            times, had = [], []
            for before, after in zip(samples[:-step], samples[step:], strict=True):
                total = sum(after.served.values()) - sum(before.served.values())
                if total > 0:
                    times.append(after.seconds / 3600)
                    had.append((after.served[name] - before.served.get(name, 0.0)) / total)
            high = ", all high priority" if name == one.workload.all_high_in else ""
            panel.plot(times, had, color=colour, linewidth=1.6, label=f"{name} (weight {weights[name]:g}{high})")
        for weight in sorted(set(weights.values())):
            panel.axhline(weight / sum(weights.values()), color="#444444", linewidth=0.8, linestyle="--")
        panel.set_ylim(0, 1)
        panel.set_xlabel("hours", fontsize=9)
        panel.legend(fontsize=8, frameon=False, loc="upper right")
    _finish(panel, "all queues want more: share had in the hour before (dashed: weight)")


def _finish(panel: Axes, title: str, axis: str = "y") -> None:
    panel.set_title(title, fontsize=10, loc="left")
    panel.grid(visible=True, axis=axis, alpha=0.25)  # pyright: ignore[reportArgumentType]
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(labelsize=9)
