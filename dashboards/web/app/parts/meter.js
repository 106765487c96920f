// Shares and progress as short bars beside their figure.
import { html } from "../dom.js";
import { percent } from "../format.js";

/** A share from 0 to 1; `null` draws an empty bar. */
export const Meter = ({ value, label, thread }) => html`
  <span class="meter" role="img" aria-label=${`${label}: ${percent(value)}`}>
    <i class=${thread ? "threaded" : ""} style=${{ width: `${100 * Math.min(1, Math.max(0, value ?? 0))}%` }} />
  </span>
`;

/** Steps of a job: a bar where the end is known, the number alone where it is not. */
export function Progress({ progress }) {
  const { step, total_steps: total } = progress;
  return html`<span class="progress">
    <${Meter} value=${total ? step / total : null} label=${`step ${step} of ${total ?? "unknown"}`} thread />
    <span>${step}<small>${total ? ` / ${total}` : ""}</small></span>
  </span>`;
}

/** A line through the last values, without axes: only whether it rises or falls. */
export function Sparkline({ values, label, top }) {
  const known = values.filter((value) => value !== null && value !== undefined);
  if (known.length < 2) return html`<svg class="sparkline" viewBox="0 0 100 24" aria-hidden="true" />`;
  const most = top ?? Math.max(...known, 1e-9);
  const points = known.map((value, at) => `${(100 * at) / (known.length - 1)},${23 - (22 * value) / most}`).join(" ");
  return html`<svg class="sparkline" viewBox="0 0 100 24" preserveAspectRatio="none" role="img" aria-label=${label}>
    <polyline points=${points} vector-effect="non-scaling-stroke" />
  </svg>`;
}
