// Begins here: who asks, what happens, which page.
import { caller, identify, tokenWanted } from "./api.js";
import { html, render, useEffect, useRef } from "./dom.js";
import { followEvents, useEvents } from "./live.js";
import { JobPage } from "./pages/job.js";
import { JobsPage } from "./pages/jobs.js";
import { OverviewPage } from "./pages/overview.js";
import { SweepPage } from "./pages/sweep.js";
import { SweepsPage } from "./pages/sweeps.js";
import { WorkerPage } from "./pages/worker.js";
import { Dialogs } from "./parts/dialog.js";
import { Shell } from "./parts/shell.js";
import { TokenDoor } from "./parts/token.js";
import { Link, place, resolve, to } from "./router.js";
import { useStore } from "./store.js";

const PAGES = {
  overview: OverviewPage,
  jobs: JobsPage,
  job: JobPage,
  sweeps: SweepsPage,
  sweep: SweepPage,
  worker: WorkerPage,
};

function App() {
  const { path, query } = useStore(place);
  const wanted = useStore(tokenWanted);
  const found = resolve(path);
  const isFirst = useRef(true);
  useEvents((event) => {
    // The stream is there, so the service is: if it was not when we began, ask again who we are.
    if (event === null && caller.get() === null) identify().catch(() => {});
  });
  useEffect(() => {
    // Whoever listens to the page or walks it by keyboard begins where it begins.
    if (!isFirst.current) document.querySelector("main h1")?.focus();
    isFirst.current = false;
  }, [path]);
  let page;
  if (wanted) page = html`<${TokenDoor} />`;
  else if (found) page = html`<${PAGES[found.page]} key=${path} id=${found.id} query=${query} />`;
  else page = html`<${NoPage} path=${path} />`;
  return html`<${Shell} path=${path}>${page}<//><${Dialogs} />`;
}

const NoPage = ({ path }) => html`<main id="main">
  <h1 tabindex="-1">There is no such page</h1>
  <p>Nothing is at ${path}. <${Link} href=${to.overview()}>To the overview<//></p>
</main>`;

render(html`<${App} />`, document.getElementById("app"));
identify().catch(() => {});
followEvents();
