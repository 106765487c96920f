// Questions before something is done that cannot be taken back, and what came of it.
import { html, useEffect, useRef } from "../dom.js";
import { createStore, useStore } from "../store.js";

const question = createStore(null);
const told = createStore(null);
let clearing;

/**
 * Ask before doing; resolves to what the form holds, or to `null` where it was left.
 *
 * @param asked `{title, text, action, isGrave, fields}`; fields are `{name, label, value, ...attributes of the input}`
 */
export const confirm = (asked) => new Promise((answer) => question.set({ ...asked, answer }));

/** Say what came of something, for a while; what went wrong stays until it is closed. */
export function tell(text, { isWrong = false } = {}) {
  clearTimeout(clearing);
  told.set({ text, isWrong });
  if (!isWrong) clearing = setTimeout(() => told.set(null), 6000);
}

export function Dialogs() {
  const asked = useStore(question);
  const said = useStore(told);
  return html`
    ${asked && html`<${Question} key=${asked.title} asked=${asked} />`}
    <div class="toast-place" role="status" aria-live="polite">
      ${said &&
      html`<div class=${said.isWrong ? "toast wrong" : "toast"}>
        <span>${said.text}</span>
        <button class="quiet" onClick=${() => told.set(null)} aria-label="Close this message">✕</button>
      </div>`}
    </div>
  `;
}

function Question({ asked }) {
  const dialog = useRef(null);
  useEffect(() => {
    const before = document.activeElement;
    dialog.current.showModal();
    return () => before?.focus?.();
  }, []);
  const leave = (value) => {
    question.set(null);
    asked.answer(value);
  };
  const submit = (event) => {
    event.preventDefault();
    leave(Object.fromEntries(new FormData(event.target)));
  };
  return html`<dialog ref=${dialog} class="question" aria-labelledby="question-title" onCancel=${() => leave(null)}>
    <form onSubmit=${submit}>
      <h2 id="question-title">${asked.title}</h2>
      <p>${asked.text}</p>
      ${(asked.fields ?? []).map(
        ({ name, label, value, ...rest }) => html`<label key=${name}>
          <span>${label}</span><input name=${name} defaultValue=${value} ...${rest} />
        </label>`,
      )}
      <div class="row end">
        <button type="button" onClick=${() => leave(null)}>Leave it</button>
        <button type="submit" class=${asked.isGrave ? "grave" : "main"}>${asked.action}</button>
      </div>
    </form>
  </dialog>`;
}
