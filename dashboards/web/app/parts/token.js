// The door: a service that others can reach asks for a token.
import { caller, identify, token, tokenWanted } from "../api.js";
import { html, useState } from "../dom.js";
import { useStore } from "../store.js";

export function TokenDoor() {
  const why = useStore(tokenWanted);
  const [isBusy, setBusy] = useState(false);
  const [problem, setProblem] = useState("");
  async function enter(event) {
    event.preventDefault();
    const given = new FormData(event.target).get("token").trim();
    setBusy(true);
    setProblem("");
    token.set(given);
    try {
      await identify();
    } catch (error) {
      if (error.status !== 401) setProblem(error.message);
      token.set(null);
    }
    setBusy(false);
  }
  return html`<main class="door" id="main">
    <form class="panel" onSubmit=${enter}>
      <h1 tabindex="-1">Token</h1>
      <p>${why} Enter a bearer token of the service's token file. It stays in this tab and is gone when the tab is closed.</p>
      <label><span>Token</span>
        <input name="token" type="password" required autocomplete="off" spellcheck="false" autofocus />
      </label>
      ${problem && html`<p class="wrong" role="alert">${problem}</p>`}
      <button class="main" disabled=${isBusy}>Enter</button>
    </form>
  </main>`;
}

/** Who we are, and the way out. */
export function Who() {
  const who = useStore(caller);
  if (!who?.name) return null;
  const leave = () => {
    token.set(null);
    caller.set(null);
    tokenWanted.set("This service asks who you are.");
  };
  const rights = who.queues === null ? "may act in all queues" : `may act in ${who.queues.join(", ")}`;
  return html`<span class="who" title=${rights}>${who.name}</span>
    <button class="quiet" onClick=${leave}>Leave</button>`;
}
