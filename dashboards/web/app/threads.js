// Every job has its thread: one colour, the same in the picture of a device, on the timeline, in curves and lists.

const NUM_FIRST = 8;
const NUM_THREADS = 12;

const known = new Map();
const used = new Array(NUM_THREADS).fill(0);

/** Number of a job's thread. Chosen by its id; the next one where more jobs that are seen here have it already. */
export function thread(jobId) {
  if (!known.has(jobId)) {
    let first = 0;
    for (const letter of jobId) first = (first * 31 + letter.codePointAt(0)) % 9973;
    let best = first % NUM_FIRST;
    for (let step = 1; step < NUM_THREADS; step++) {
      const other = step < NUM_FIRST ? (first + step) % NUM_FIRST : step;
      if (used[other] < used[best]) best = other;
    }
    used[best]++;
    known.set(jobId, best);
  }
  return known.get(jobId);
}

/** The custom property that holds the colour, as a style. */
export const threadStyle = (jobId) => ({ "--thread": `var(--thread-${thread(jobId)})` });

let probe = null;

/** A colour of the style sheet as a canvas takes it, for the theme that is shown now. */
export function colour(property) {
  if (!probe) {
    probe = document.createElement("span");
    probe.hidden = true;
    document.body.append(probe);
  }
  probe.style.color = `var(${property})`;
  return getComputedStyle(probe).color;
}
