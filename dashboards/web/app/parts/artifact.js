// What a job has made: its files, checked as they are downloaded, and the command that serves them.
import { ask, get, jobPath } from "../api.js";
import { html, useState } from "../dom.js";
import { bytes } from "../format.js";
import { useLive } from "../live.js";
import { Copy } from "./copy.js";
import { Known } from "./notices.js";
import { Panel } from "./page.js";
import { isEnded } from "./state.js";
import { tar } from "./tar.js";

const MANIFEST = "manifest.json";

const hex = (buffer) => [...new Uint8Array(buffer)].map((byte) => byte.toString(16).padStart(2, "0")).join("");

/** A file's bytes. Throws where they are not those that the job has published. */
async function fetchFile(jobId, file) {
  const response = await ask(jobPath(jobId, `/artifacts/${encodeURIComponent(file.name)}`));
  const content = await response.arrayBuffer();
  // Browsers hash on safe origins only: localhost and https.
  if (!crypto.subtle) return { name: file.name, content, isVerified: false };
  if (hex(await crypto.subtle.digest("SHA-256", content)) !== file.sha256) {
    throw new Error(`${file.name} arrived damaged: its sha256 is not the published one`);
  }
  return { name: file.name, content, isVerified: true };
}

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

export function Artifact({ job }) {
  if (!job.artifact) {
    const why = isEnded(job.state) ? "It ended without one." : "It is published when the job has ended well.";
    return html`<${Panel} title="Adapter"><p class="aside">${why}</p><//>`;
  }
  return html`<${Published} job=${job} />`;
}

function Published({ job }) {
  const [said, setSaid] = useState("");
  const [isBusy, setBusy] = useState(false);
  const live = useLive(
    async (signal) => {
      const listing = await get(jobPath(job.id, "/artifacts"), { signal });
      const manifest = await get(jobPath(job.id, `/artifacts/${MANIFEST}`), { signal });
      return { ...listing, manifest };
    },
    { key: job.id, concerns: () => false },
  );
  const download = (files) => async () => {
    setBusy(true);
    try {
      const found = [];
      for (const file of files) {
        setSaid(`Fetching ${file.name}…`);
        found.push(await fetchFile(job.id, file));
      }
      if (found.length === 1) save(new Blob([found[0].content]), found[0].name);
      else save(tar(job.id, found), `${job.id}.tar`);
      const what = found.length === 1 ? found[0].name : `${found.length} files`;
      setSaid(found.every((one) => one.isVerified) ? `${what} saved, sha256 verified.` : `${what} saved; check it with loraloom artifacts verify.`);
    } catch (problem) {
      setSaid(problem.message);
    }
    setBusy(false);
  };
  const all = live.data && html`<button class="main" disabled=${isBusy} onClick=${download(live.data.files)}>Download all</button>`;
  return html`<${Panel} title="Adapter" aside=${all}>
    <${Known} live=${live} what="the adapter">${(found) => html`
      <ul class="files">
        ${found.files.map(
          (file) => html`<li key=${file.name}>
            <div class="row"><code>${file.name}</code><span class="soft end">${bytes(file.size_bytes)}</span>
              <button class="quiet" disabled=${isBusy} onClick=${download([file])} aria-label=${`Download ${file.name}`}>Download</button></div>
            <code class="hash" title=${`sha256 ${file.sha256}`}>${file.sha256}</code>
          </li>`,
        )}
      </ul>
      <p class="aside" role="status">${said || `${bytes(found.size_bytes)} in ${found.files.length} files; each is checked as it is downloaded.`}</p>
      <${Serving} manifest=${found.manifest} />
    `}<//>
  <//>`;
}

function Serving({ manifest }) {
  if (manifest.vllm_command === undefined) return null;
  if (manifest.vllm_command === null) {
    return html`<p class="aside">vLLM cannot serve it unmerged: its rank is above what vLLM takes. Merge it into its base first.</p>`;
  }
  return html`<div class="command">
    <div class="row"><h3>Serve with vLLM, from inside its folder</h3><${Copy} text=${manifest.vllm_command} label="the vLLM command" /></div>
    <pre tabindex="0" aria-label="vLLM command">${manifest.vllm_command}</pre>
  </div>`;
}
