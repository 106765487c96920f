// Dark and light: what the system says, until somebody chooses.
import { createStore } from "./store.js";

const KEY = "loraloom-theme";
const system = matchMedia("(prefers-color-scheme: dark)");
const shown = () => document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light");

/** `light` or `dark`, as it is shown. */
export const theme = createStore(shown());

system.addEventListener("change", () => theme.set(shown()));

/** The other one, from now on in this browser. */
export function switchTheme() {
  const chosen = shown() === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = chosen;
  localStorage.setItem(KEY, chosen);
  theme.set(chosen);
}
