// What a job has measured, fetched in parts and kept as columns that charts draw.
import { get, jobPath } from "./api.js";

const PART = 2000;

/** All points of a job, or those that have come since; begun anew where an attempt has taken steps again. */
export async function fetchCurves(jobId, signal, known) {
  let points = known?.points ?? [];
  // The last step is asked for again: its evaluation may have come after its loss.
  let after = points.length ? points.at(-1).step - 1 : -1;
  let fresh = [];
  for (;;) {
    const page = await get(jobPath(jobId, `/metrics?after_step=${after}&limit=${PART}`), { signal });
    fresh.push(...page.metrics);
    if (page.metrics.length < PART) break;
    after = page.after_step;
  }
  const attempt = (found) => found.findLast((point) => point.kind === "train")?.values.attempt;
  const isAgain = points.length > 0 && (fresh.length === 0 || (attempt(fresh) ?? attempt(points)) !== attempt(points));
  if (isAgain) return fetchCurves(jobId, signal, undefined);
  if (points.length) {
    const first = points.at(-1).step;
    points = points.filter((point) => point.step < first);
    fresh = fresh.filter((point) => point.step >= first);
  }
  return { points: [...points, ...fresh] };
}

/** Columns over the steps that any point is of. */
export function columns(points, names) {
  const steps = [...new Set(points.map((point) => point.step))].sort((a, b) => a - b);
  const at = new Map(steps.map((step, index) => [step, index]));
  const found = Object.fromEntries(names.map((name) => [name, new Array(steps.length).fill(null)]));
  for (const { step, values } of points) {
    for (const name of names) if (typeof values[name] === "number") found[name][at.get(step)] = values[name];
  }
  return { steps, ...found };
}

/** Where an attempt took over from another, by the attempt that each step was taken in. */
export function restarts(points) {
  const marks = [];
  let before;
  for (const { kind, step, values } of points) {
    if (kind !== "train" || typeof values.attempt !== "number") continue;
    if (before !== undefined && values.attempt !== before) marks.push({ x: step, label: `attempt ${values.attempt}` });
    before = values.attempt;
  }
  return marks;
}
