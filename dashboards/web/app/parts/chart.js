// Curves over steps, drawn by uPlot.
import { html, useEffect, useRef } from "../dom.js";
import { figure } from "../format.js";
import { useStore } from "../store.js";
import { theme } from "../theme.js";
import { colour } from "../threads.js";
import uPlot from "../../vendor/uplot.js";

const FONT = '11px "Plex Sans", system-ui, sans-serif';
// There is no half step.
const STEPS = [0, 1, 2, 3, 4, 5, 6].flatMap((power) => [1, 2, 5].map((part) => part * 10 ** power));

/**
 * Curves that grow.
 *
 * @param x steps, ascending
 * @param series `{label, colour (a property of the style sheet), values, isPoints}`, values `null` where there are none
 * @param marks `{x, label}`: lines across, such as where an attempt began
 * @param group charts of one group show the same step under the pointer
 */
export function Chart({ title, x, series, marks = [], group, isLog = false, height = 200 }) {
  const place = useRef(null);
  const plot = useRef(null);
  const shown = useRef(marks);
  shown.current = marks;
  const look = useStore(theme);
  const shape = JSON.stringify([series.map((one) => [one.label, one.colour, one.isPoints]), isLog, group, height, look]);
  const data = [x, ...series.map((one) => one.values)];

  useEffect(() => {
    const width = place.current.clientWidth || 300;
    const made = new uPlot(options({ series, isLog, group, width, height, marks: shown }), data, place.current);
    plot.current = made;
    const watch = new ResizeObserver(([entry]) => {
      const width = Math.floor(entry.contentRect.width);
      if (width > 0 && width !== made.width) made.setSize({ width, height });
    });
    watch.observe(place.current);
    return () => {
      watch.disconnect();
      made.destroy();
    };
  }, [shape]);
  useEffect(() => plot.current.setData(data), [x, ...series.map((one) => one.values), marks.length]);

  return html`<figure class="chart" data-points=${x.length}>
    <figcaption>${title}</figcaption>
    <div ref=${place} role="img" aria-label=${`${title}: ${summary(x, series)}`} />
  </figure>`;
}

function options({ series, isLog, group, width, height, marks }) {
  const ink = colour("--ink-soft");
  const grid = { stroke: colour("--line"), width: 1 };
  const ticks = { ...grid, size: 4 };
  const axis = { stroke: ink, grid, ticks, font: FONT, labelFont: FONT };
  return {
    width,
    height,
    cursor: { sync: group ? { key: group } : undefined, points: { size: 6 }, drag: { x: true, y: false } },
    legend: { live: true },
    scales: { x: { time: false }, y: { distr: isLog ? 3 : 1 } },
    axes: [
      { ...axis, size: 26, gap: 3, incrs: STEPS },
      { ...axis, size: 54, gap: 4, values: (_, values) => values.map((value) => (value === null ? "" : figure(value, 3))) },
    ],
    series: [
      { label: "step", value: (made, value) => value ?? newest(made.data[0]) ?? "–" },
      ...series.map((one) => ({
        label: one.label,
        stroke: colour(one.colour),
        width: 1.5,
        spanGaps: true,
        paths: one.isPoints ? () => null : undefined,
        points: one.isPoints ? { show: true, size: 7, width: 2, fill: colour("--surface") } : { show: false },
        // The newest while no pointer is over the chart.
        value: (made, value, number, at) => figure(at === null ? newest(made.data[number]) : value),
      })),
    ],
    hooks: { draw: [(made) => drawMarks(made, marks.current)] },
  };
}

function newest(values) {
  return values.findLast((value) => value !== null);
}

function drawMarks({ ctx, bbox, valToPos }, marks) {
  const ratio = devicePixelRatio;
  ctx.save();
  ctx.strokeStyle = ctx.fillStyle = colour("--warn-ink");
  ctx.font = `${11 * ratio}px "Plex Sans", system-ui, sans-serif`;
  ctx.textBaseline = "top";
  ctx.lineWidth = ratio;
  ctx.setLineDash([4 * ratio, 3 * ratio]);
  for (const { x, label } of marks) {
    const at = Math.round(valToPos(x, "x", true));
    if (at < bbox.left || at > bbox.left + bbox.width) continue;
    ctx.beginPath();
    ctx.moveTo(at, bbox.top);
    ctx.lineTo(at, bbox.top + bbox.height);
    ctx.stroke();
    const isRight = at + ctx.measureText(label).width + 8 * ratio < bbox.left + bbox.width;
    ctx.textAlign = isRight ? "left" : "right";
    ctx.fillText(label, at + (isRight ? 4 : -4) * ratio, bbox.top + 2 * ratio);
  }
  ctx.restore();
}

function summary(x, series) {
  return series
    .map(({ label, values }) => {
      const isKnown = (value) => value !== null;
      const [first, last] = [values.findIndex(isKnown), values.findLastIndex(isKnown)];
      if (first < 0) return `${label} has no values yet`;
      return `${label} from ${figure(values[first])} at step ${x[first]} to ${figure(values[last])} at step ${x[last]}`;
    })
    .join("; ");
}
