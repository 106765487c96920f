// Every job has its thread: one colour, the same in the picture of a device, on the timeline, in curves and lists.

export const NUM_THREADS = 12;

const known = new Map();
const used = new Array(NUM_THREADS).fill(0);

/** Number of a job's thread. Chosen by its id; the next one where more jobs that are seen here have it already. */
export function thread(jobId) {
  if (!known.has(jobId)) {
    let first = 0;
    for (const letter of jobId) first = (first * 31 + letter.codePointAt(0)) % 9973;
    let best = first % NUM_THREADS;
    for (let step = 0; step < NUM_THREADS; step++) {
      // Steps of five visit all twelve, and neighbours are far apart in hue.
      const other = (first + 5 * step) % NUM_THREADS;
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
