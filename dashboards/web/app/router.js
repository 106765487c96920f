// Which page an address means. Addresses are real paths, so that they can be sent to others and opened again.
import { html } from "./dom.js";
import { createStore } from "./store.js";

const PREFIX = "/ui";

const current = () => ({ path: location.pathname, query: new URLSearchParams(location.search) });

export const place = createStore(current());

/** Go to an address of ours, without loading the document again. */
export function navigate(address, { replace = false } = {}) {
  if (address === location.pathname + location.search) return;
  history[replace ? "replaceState" : "pushState"](null, "", address);
  place.set(current());
  if (!replace) scrollTo(0, 0);
}

addEventListener("popstate", () => place.set(current()));

export const to = {
  overview: () => `${PREFIX}/`,
  jobs: (query = "") => `${PREFIX}/jobs${query ? `?${query}` : ""}`,
  job: (id) => `${PREFIX}/jobs/${encodeURIComponent(id)}`,
  sweeps: () => `${PREFIX}/sweeps`,
  sweep: (id) => `${PREFIX}/sweeps/${encodeURIComponent(id)}`,
  worker: (id) => `${PREFIX}/workers/${encodeURIComponent(id)}`,
};

/** The page's name and the id in its address; `null` for an address that is none of ours. */
export function resolve(path) {
  const [, prefix, page = "", id, ...rest] = path.replace(/\/$/, "").split("/");
  if (`/${prefix}` !== PREFIX || rest.length) return null;
  if (page === "") return { page: "overview" };
  if (id === undefined) return page === "jobs" || page === "sweeps" ? { page } : null;
  const one = { jobs: "job", sweeps: "sweep", workers: "worker" }[page];
  try {
    return one && id ? { page: one, id: decodeURIComponent(id) } : null;
  } catch {
    return null;
  }
}

/** A link; an ordinary click stays in the document, every other does what the browser does. */
export function Link({ href, children, ...rest }) {
  const follow = (event) => {
    if (event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    navigate(href);
  };
  return html`<a href=${href} onClick=${follow} ...${rest}>${children}</a>`;
}
