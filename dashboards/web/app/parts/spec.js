// A job's spec, defaults filled in, as YAML that can be submitted again.
import { html } from "../dom.js";
import { Copy } from "./copy.js";

const WORD = /^[A-Za-z_./-][\w ./@-]*$/;
const MEANS_SOMETHING = /^(true|false|null|yes|no|on|off|~|-)$/i;

function scalar(value) {
  if (typeof value !== "string") return JSON.stringify(value);
  return WORD.test(value) && !value.endsWith(" ") && !MEANS_SOMETHING.test(value) ? value : JSON.stringify(value);
}

const isBlock = (value) => typeof value === "object" && value !== null && Object.keys(value).length > 0;

/** JSON values as YAML. */
function yaml(value, indent = "") {
  if (!isBlock(value)) return `${indent}${scalar(value)}\n`;
  if (Array.isArray(value)) {
    return value.map((one) => (isBlock(one) ? `${indent}- ${yaml(one, `${indent}  `).trimStart()}` : `${indent}- ${scalar(one)}\n`)).join("");
  }
  return Object.entries(value)
    .map(([name, one]) => (isBlock(one) ? `${indent}${scalar(name)}:\n${yaml(one, `${indent}  `)}` : `${indent}${scalar(name)}: ${scalar(one)}\n`))
    .join("");
}

export function Spec({ spec }) {
  const text = yaml(spec);
  return html`<section class="panel" aria-label="Spec">
    <details>
      <summary><h2>Spec</h2></summary>
      <div class="row end"><${Copy} text=${text} label="the spec" /></div>
      <pre tabindex="0" aria-label="Spec as YAML">${text}</pre>
    </details>
  </section>`;
}
