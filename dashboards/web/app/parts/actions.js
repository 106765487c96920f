// What may be done to jobs, by whom, and the question before it.
import { ApiProblem, caller, each, jobPath, mayAct, patch, post } from "../api.js";
import { html, useState } from "../dom.js";
import { plural } from "../format.js";
import { useStore } from "../store.js";
import { confirm, tell } from "./dialog.js";
import { isEnded } from "./state.js";

const fits = {
  pause: (job) => !isEnded(job.state) && job.desired === "run",
  resume: (job) => !isEnded(job.state) && job.desired === "pause",
  cancel: (job) => !isEnded(job.state) && job.desired !== "cancel",
  retry: (job) => job.state === "FAILED" || job.state === "CANCELLED",
};

const QUESTIONS = {
  cancel: { action: "Cancel", isGrave: true, text: "It ends; its checkpoints stay, so that it can be retried from there." },
  retry: { action: "Retry", isGrave: false, text: "It goes on from its last good checkpoint, with all its restarts." },
};
const DONE = { pause: "asked to pause", resume: "asked to go on", cancel: "asked to be cancelled", retry: "queued again" };

async function act(verb, job) {
  const question = QUESTIONS[verb];
  if (question && !(await confirm({ title: `${question.action} ${job.name}?`, ...question }))) return;
  try {
    await post(jobPath(job.id, `/${verb}`));
    tell(`${job.name} was ${DONE[verb]}.`);
  } catch (problem) {
    tell(`${job.name}: ${problem.message}`, { isWrong: true });
  }
}

async function changePlace(job) {
  const fields = [
    { name: "priority", label: "Priority (higher is placed first)", value: job.priority, type: "number", required: true, step: 1 },
    { name: "queue", label: "Queue", value: job.queue, required: true, pattern: "[a-z0-9]([\\-a-z0-9]{0,61}[a-z0-9])?" },
  ];
  const chosen = await confirm({ title: `Move ${job.name}`, text: "It changes when the job has its turn.", action: "Move", fields });
  if (!chosen) return;
  try {
    await patch(jobPath(job.id), { priority: Number(chosen.priority), queue: chosen.queue });
    tell(`${job.name} is in queue ${chosen.queue} with priority ${chosen.priority}.`);
  } catch (problem) {
    tell(`${job.name}: ${problem.message}`, { isWrong: true });
  }
}

/** Buttons of one job: those that make sense in its state, and that its token has the right to. */
export function Actions({ job, onDone }) {
  const who = useStore(caller);
  const [isBusy, setBusy] = useState(false);
  if (who && !mayAct(who, job.queue)) {
    return html`<p class="aside">The token ${who.name} has no right to act in the queue ${job.queue}.</p>`;
  }
  const run = (work) => async () => {
    setBusy(true);
    await work();
    setBusy(false);
    onDone();
  };
  const button = (verb, label, looks) =>
    fits[verb](job) && html`<button class=${looks} disabled=${isBusy || !who} onClick=${run(() => act(verb, job))}>${label}</button>`;
  return html`<div class="row" role="group" aria-label="Actions">
    ${button("resume", "Resume", "main")} ${button("retry", "Retry…", "main")} ${button("pause", "Pause", "")}
    ${!isEnded(job.state) && html`<button disabled=${isBusy || !who} onClick=${run(() => changePlace(job))}>Priority…</button>`}
    ${button("cancel", "Cancel…", "grave-quiet")}
  </div>`;
}

/** Buttons for chosen jobs of a list. */
export function BulkActions({ jobs, onDone }) {
  const who = useStore(caller);
  const [isBusy, setBusy] = useState(false);
  const run = (verb, meant) => async () => {
    const left = jobs.length - meant.length;
    const question = QUESTIONS[verb];
    const title = `${question.action} ${plural(meant.length, "job")}?`;
    const rest = left ? ` ${plural(left, "chosen job")} will be left alone: no right to act there, or not in a state for it.` : "";
    if (!(await confirm({ title, ...question, text: `${meant.map((job) => job.name).slice(0, 8).join(", ")}${meant.length > 8 ? ", …" : ""}.${rest}` }))) return;
    setBusy(true);
    const problems = await all(meant, verb);
    setBusy(false);
    const done = meant.length - problems.length;
    tell(
      problems.length ? `${plural(done, "job")} ${DONE[verb]}; ${problems.length} not: ${problems[0]}` : `${plural(done, "job was", "jobs were")} ${DONE[verb]}.`,
      { isWrong: problems.length > 0 },
    );
    onDone();
  };
  const verbs = ["retry", "cancel"].map((verb) => [verb, jobs.filter((job) => fits[verb](job) && mayAct(who, job.queue))]);
  return html`<div class="row" role="group" aria-label="Actions on chosen jobs">
    <span aria-live="polite">${plural(jobs.length, "job")} chosen</span>
    ${verbs.map(
      ([verb, meant]) => html`<button
        key=${verb}
        class=${verb === "cancel" ? "grave-quiet" : ""}
        disabled=${isBusy || !meant.length}
        onClick=${run(verb, meant)}
      >${QUESTIONS[verb].action} ${meant.length}…</button>`,
    )}
  </div>`;
}

async function all(jobs, verb) {
  const problems = [];
  await each(jobs, async (job) => {
    try {
      await post(jobPath(job.id, `/${verb}`));
    } catch (problem) {
      if (!(problem instanceof ApiProblem)) throw problem;
      problems.push(`${job.name}: ${problem.message}`);
    }
  });
  return problems;
}
