// The frame of a page: its title, for people and for the tab.
import { html, useEffect } from "../dom.js";
import { ago, moment } from "../format.js";

export function Page({ title, heading, aside, children }) {
  useEffect(() => {
    document.title = `${title} · Loraloom`;
  }, [title]);
  return html`<main id="main">
    <div class="page-head">
      <h1 tabindex="-1">${heading ?? title}</h1>
      ${aside}
    </div>
    ${children}
  </main>`;
}

export const Panel = ({ title, aside, children, className = "" }) => html`
  <section class=${`panel ${className}`} aria-label=${title}>
    <header><h2>${title}</h2>${aside}</header>
    ${children}
  </section>
`;

/** One of some, chosen by a button. `choices` are pairs of a name and a value. */
export const Tabs = ({ label, choices, value, onChoose, className = "" }) => html`<div class=${`row tabs ${className}`} role="group" aria-label=${label}>
  ${choices.map(([name, one]) => html`<button key=${one} aria-pressed=${one === value} onClick=${() => onChoose(one)}>${name}</button>`)}
</div>`;

/** How long ago; the moment itself under the pointer. */
export const When = ({ at }) => html`<span title=${moment(at)}>${ago(at)}</span>`;

/** Names and values. */
export const Facts = ({ facts, className = "" }) => html`<dl class=${`facts ${className}`}>
  ${facts.filter(Boolean).map(([name, value, title]) => html`<div key=${name} title=${title}><dt>${name}</dt><dd>${value}</dd></div>`)}
</dl>`;
