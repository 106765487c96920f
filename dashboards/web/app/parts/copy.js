// Text to be taken elsewhere: an id, a command, a spec.
import { html, useState } from "../dom.js";

export function Copy({ text, label }) {
  const [said, setSaid] = useState("");
  async function copy() {
    try {
      await navigator.clipboard.writeText(text);
      setSaid("Copied");
    } catch {
      // Browsers give the clipboard to safe origins only: localhost and https.
      setSaid("Select and copy by hand");
    }
    setTimeout(() => setSaid(""), 2000);
  }
  return html`<button class="quiet copy" onClick=${copy} aria-label=${`Copy ${label}`}>
    <span aria-live="polite">${said || "Copy"}</span>
  </button>`;
}
