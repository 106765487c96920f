// What changes without reload: the stream of events, and data that is asked for again when something happened.
import { authorisation, isAnswered, isUnanswered, STREAM, tokenWanted } from "./api.js";
import { useEffect, useRef, useState } from "./dom.js";

const RETRY_MILLISECONDS = 2000;
const SILENCE_MILLISECONDS = 45_000; // three heartbeats
const GAP_MILLISECONDS = 1000;

const listeners = new Set();
let lastEventId = null;
let open = null;

/** Follow the service's events while the page is seen: a hidden tab holds no connection open. */
export function followEvents() {
  const see = () => {
    if (document.hidden) {
      open?.abort();
      open = null;
    } else if (!open) {
      follow(new AbortController());
    }
  };
  document.addEventListener("visibilitychange", see);
  tokenWanted.subscribe(() => {
    open?.abort();
    open = null;
    if (!tokenWanted.get()) see();
  });
  see();
}

async function follow(mine) {
  open = mine;
  // EventSource cannot send a token, so the stream is read by hand; after a break it goes on behind the last event.
  while (!mine.signal.aborted) {
    let watchdog;
    const attempt = new AbortController();
    const end = () => attempt.abort();
    mine.signal.addEventListener("abort", end, { once: true });
    try {
      const headers = { Accept: "text/event-stream", ...authorisation() };
      if (lastEventId !== null) headers["Last-Event-ID"] = lastEventId;
      const response = await fetch(STREAM, { headers, signal: attempt.signal, cache: "no-store" });
      if (!response.ok) throw new Error(String(response.status));
      isAnswered();
      tell(null);
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        clearTimeout(watchdog);
        watchdog = setTimeout(end, SILENCE_MILLISECONDS);
        const { done, value } = await reader.read();
        if (done) break;
        isAnswered();
        const frames = (text + value).split("\n\n");
        text = frames.pop();
        for (const frame of frames) receive(frame);
      }
    } catch {
      if (!mine.signal.aborted) isUnanswered();
    } finally {
      clearTimeout(watchdog);
      mine.signal.removeEventListener("abort", end);
    }
    if (tokenWanted.get()) mine.abort();
    await new Promise((resume) => setTimeout(resume, RETRY_MILLISECONDS));
  }
}

function receive(frame) {
  const fields = Object.fromEntries(
    frame.split("\n").map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 1).trim()]),
  );
  if (fields.event !== "job") return;
  lastEventId = fields.id;
  tell(JSON.parse(fields.data));
}

function tell(event) {
  for (const listener of [...listeners]) listener(event);
}

/** Call with each event; with `null` where some may have been missed. */
export function useEvents(listener) {
  const latest = useRef(listener);
  latest.current = listener;
  useEffect(() => {
    const call = (event) => latest.current(event);
    listeners.add(call);
    return () => listeners.delete(call);
  }, []);
}

/**
 * Data that stays up to date: asked for at once, after every interval while the page is seen, and soon after an event.
 *
 * @param load gives a promise of the data; is told the signal that ends it and what was known before
 * @param key what the data is about; another key forgets what was known
 * @param every milliseconds; 0 for after events alone
 * @param concerns which events matter
 * @param isDone whether nothing but an event can change the data any more
 * @param gap milliseconds between two requests at least, however much happens
 * @param keeps show what was known under the key before until the new is there
 */
export function useLive(
  load,
  { key = "", every = 0, concerns = () => true, isDone = () => false, gap = GAP_MILLISECONDS, keeps = false } = {},
) {
  const [state, setState] = useState({ key, data: undefined, problem: null });
  const run = useRef(null);
  const latest = useRef(null);
  latest.current = { load, concerns, isDone };

  useEffect(() => {
    const stop = new AbortController();
    let data = state.key === key ? state.data : undefined;
    let timer, soon, isBusy = false, isWanted = false, began = 0;
    const next = () => {
      clearTimeout(timer);
      if (every && !stop.signal.aborted && !latest.current.isDone(data)) timer = setTimeout(ask, every);
    };
    async function ask() {
      clearTimeout(soon);
      soon = undefined;
      if (stop.signal.aborted) return;
      if (document.hidden) return next();
      if (isBusy) {
        isWanted = true;
        return;
      }
      isBusy = true;
      began = Date.now();
      try {
        data = await latest.current.load(stop.signal, data);
        if (!stop.signal.aborted) setState({ key, data, problem: null });
      } catch (problem) {
        // What was known stays on the screen; the banner says that it is old.
        if (!stop.signal.aborted) setState({ key, data, problem });
      }
      isBusy = false;
      if (isWanted) {
        isWanted = false;
        shortly();
      }
      next();
    }
    function shortly() {
      if (soon === undefined) soon = setTimeout(ask, Math.max(50, began + gap - Date.now()));
    }
    run.current = { ask, shortly };
    const seen = () => !document.hidden && shortly();
    document.addEventListener("visibilitychange", seen);
    ask();
    return () => {
      stop.abort();
      clearTimeout(timer);
      clearTimeout(soon);
      document.removeEventListener("visibilitychange", seen);
    };
  }, [key, every]);

  useEvents((event) => {
    if (event === null || latest.current.concerns(event)) run.current?.shortly();
  });
  const known = state.key === key || keeps ? state : { data: undefined, problem: null };
  return { data: known.data, problem: known.problem, isOld: state.key !== key, reload: () => run.current?.ask() };
}
