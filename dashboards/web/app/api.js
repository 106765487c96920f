// The HTTP API of this service: the only thing these pages ever talk to.
import { createStore } from "./store.js";

const PREFIX = "/api/v1";
const TOKEN = "loraloom-token";
const AT_ONCE = 4;

/** `{isLost, since, updated}`: whether the service answers, since when not, and when it last did (milliseconds). */
export const connection = createStore({ isLost: false, since: null, updated: null });

/** Who we are to the service: `null` while not known, else `{name, queues}`. */
export const caller = createStore(null);

/** Why a token is asked for; `null` while none is needed. */
export const tokenWanted = createStore(null);

/** What the service said no with, or that it said nothing (`status` 0). */
export class ApiProblem extends Error {
  constructor(status, title, detail) {
    super(detail || title);
    this.status = status;
    this.title = title;
  }
}

export const token = {
  get: () => sessionStorage.getItem(TOKEN),
  /** Kept in this tab until it is closed. */
  set: (value) => (value ? sessionStorage.setItem(TOKEN, value) : sessionStorage.removeItem(TOKEN)),
};

export const authorisation = () => (token.get() ? { Authorization: `Bearer ${token.get()}` } : {});

export function isAnswered() {
  connection.set({ isLost: false, since: null, updated: Date.now() });
}

export function isUnanswered() {
  const known = connection.get();
  if (!known.isLost) connection.set({ ...known, isLost: true, since: Date.now() });
}

/** A raw answer of the service; throws `ApiProblem` for one that is no success. */
export async function ask(path, { method = "GET", headers = {}, body, signal } = {}) {
  let response;
  try {
    response = await fetch(PREFIX + path, { method, body, signal, headers: { ...authorisation(), ...headers } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    isUnanswered();
    throw new ApiProblem(0, "no answer", "The service does not answer.");
  }
  isAnswered();
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  if (response.status === 401) {
    tokenWanted.set(token.get() ? "The service does not know this token." : "This service asks who you are.");
  }
  throw new ApiProblem(response.status, problem.title ?? response.statusText, problem.detail);
}

/** The JSON of an answer. */
export const get = async (path, options) => (await ask(path, options)).json();

export const post = async (path) => (await ask(path, { method: "POST" })).json();

export const patch = async (path, change) =>
  (
    await ask(path, {
      method: "PATCH",
      body: JSON.stringify(change),
      headers: { "Content-Type": "application/json" },
    })
  ).json();

/** Do something for each of some items, a few at once. */
export async function each(items, work) {
  const waiting = [...items];
  const worker = async () => {
    while (waiting.length) await work(waiting.shift());
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
}

/** The path of a job and what hangs below it. */
export const jobPath = (id, below = "") => `/jobs/${encodeURIComponent(id)}${below}`;

/** Learn who we are, with the token that is kept, if any. */
export async function identify() {
  const known = await get("/caller");
  tokenWanted.set(null);
  caller.set(known);
}

/** Whether the token lets us steer jobs of a queue. */
export const mayAct = (who, queue) => Boolean(who) && (who.queues === null || who.queues.includes(queue));

export const STREAM = `${PREFIX}/stream`;
