// What is around every page: where one can go, how fresh what is shown is, and whether the service answers.
import { connection } from "../api.js";
import { html, useEffect, useState } from "../dom.js";
import { duration, time } from "../format.js";
import { Link, resolve, to } from "../router.js";
import { useStore } from "../store.js";
import { switchTheme, theme } from "../theme.js";
import { Who } from "./token.js";

const PLACES = [
  ["Overview", to.overview(), ["overview", "worker"]],
  ["Jobs", to.jobs(), ["jobs", "job"]],
  ["Sweeps", to.sweeps(), ["sweeps", "sweep"]],
];

export function Shell({ path, children }) {
  const page = resolve(path)?.page;
  return html`
    <a class="skip" href="#main">To the content</a>
    <header class="bar-top">
      <${Link} href=${to.overview()} class="brand" aria-label="Loraloom, overview"><${Mark} /><span>Loraloom</span><//>
      <nav aria-label="Pages">
        ${PLACES.map(
          ([name, href, pages]) => html`<${Link} key=${name} href=${href} aria-current=${pages.includes(page) ? "page" : undefined}>${name}<//>`,
        )}
      </nav>
      <div class="row end grow">
        <${Stamp} />
        <${Who} />
        <${Theme} />
      </div>
    </header>
    <${Lost} />
    ${children}
  `;
}

const Mark = () => html`<svg class="mark" viewBox="0 0 24 24" aria-hidden="true">
  <path class="warp" d="M6 2v2M6 8v8M6 20v2M12 2v8M12 14v8M18 2v2M18 8v8M18 20v2" />
  <path class="weft-1" d="M2 6h7.7M14.3 6H22" />
  <path class="weft-2" d="M2 12h1.7M8.3 12h7.4M20.3 12H22" />
  <path class="weft-3" d="M2 18h7.7M14.3 18H22" />
</svg>`;

function useSecond() {
  const [now, setNow] = useState(Date.now());
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), 1000);
    return () => clearInterval(timer);
  }, []);
  return now;
}

function Stamp() {
  const { updated, isLost } = useStore(connection);
  const now = useSecond();
  const age = updated === null ? null : Math.max(0, (now - updated) / 1000);
  const text = age === null ? "connecting" : isLost ? `last seen ${time(updated / 1000)}` : age < 5 ? "live" : `${duration(Math.round(age))} old`;
  return html`<span class="stamp" data-lost=${isLost} title=${updated === null ? "" : `Last updated ${time(updated / 1000)}`}>
    <i aria-hidden="true" /> ${text}${!isLost && updated !== null && html`<time class="wide-only"> · ${time(updated / 1000)}</time>`}
  </span>`;
}

function Lost() {
  const { isLost, since, updated } = useStore(connection);
  return html`<div role="alert">${isLost && html`<${Banner} since=${since} updated=${updated} />`}</div>`;
}

function Banner({ since, updated }) {
  const now = useSecond();
  return html`<p class="banner">
    <b>No connection to the service</b> for ${duration(Math.max(0, Math.round((now - since) / 1000)))}.
    ${updated === null ? "Nothing was heard of it yet." : `What is shown is of ${time(updated / 1000)}.`} Jobs go on without
    this page; it comes back by itself.
  </p>`;
}

function Theme() {
  const shown = useStore(theme);
  const other = shown === "dark" ? "light" : "dark";
  return html`<button class="quiet theme" onClick=${switchTheme} aria-label=${`Show in ${other} colours`} title=${`Show in ${other} colours`}>
    <svg viewBox="0 0 16 16" aria-hidden="true"><circle cx="8" cy="8" r="6" /><path d="M8 2a6 6 0 0 1 0 12z" /></svg>
  </button>`;
}
