// When a job will be done, at the pace it has.
import { useRef } from "./dom.js";

const WINDOW_SECONDS = 180;
const LEAST_SECONDS = 8;

/** Seconds left, by the steps that were seen here, or by those of the whole attempt at first; `null` where unknown. */
export function usePace(job, points) {
  const seen = useRef({ key: "", samples: [] });
  const { step, total_steps: total } = job.progress;
  if (job.state !== "RUNNING" || !total || step >= total) return null;
  const now = Date.now() / 1000;
  const key = `${job.id} ${job.attempt}`;
  if (seen.current.key !== key) seen.current = { key, samples: [] };
  const { samples } = seen.current;
  if (samples.at(-1)?.step !== step) samples.push({ at: now, step });
  while (samples.length > 2 && now - samples[0].at > WINDOW_SECONDS) samples.shift();
  const [first, last] = [samples[0], samples.at(-1)];
  if (last.at - first.at >= LEAST_SECONDS && last.step > first.step) {
    return ((total - last.step) * (last.at - first.at)) / (last.step - first.step);
  }
  const begun = points.find((point) => point.values.attempt === job.attempt);
  const started = job.attempts.at(-1)?.started_unix_seconds;
  if (!begun || !started || step <= begun.step) return null;
  return ((total - step) * (now - started)) / (step - begun.step + 1);
}
