// Figures for people. What is not known is a dash.

const DASH = "–";
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export const count = (value) => (isNumber(value) ? grouped.format(value) : DASH);

export const plural = (value, one, many = `${one}s`) => `${count(value)} ${value === 1 ? one : many}`;

/** Four digits that count, as losses and rates are read. */
export function figure(value, digits = 4) {
  if (!isNumber(value)) return DASH;
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size < 1e-3 || size >= 1e6 ? value.toExponential(digits - 2) : String(Number(value.toPrecision(digits)));
}

/** A loss with as many decimals in every row of a table. */
export const loss = (value) => (isNumber(value) ? (value >= 1000 ? figure(value) : value.toFixed(3)) : DASH);

export const percent = (value) => (isNumber(value) ? `${Math.round(100 * value)} %` : DASH);

export function bytes(value) {
  if (!isNumber(value)) return DASH;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) [value, unit] = [value / 1024, unit + 1];
  return `${value >= 100 || unit === 0 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

export function duration(seconds) {
  if (!isNumber(seconds) || seconds < 0) return DASH;
  if (seconds < 10 && seconds > 0) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  const parts = [
    [Math.floor(whole / 86400), "d"],
    [Math.floor(whole / 3600) % 24, "h"],
    [Math.floor(whole / 60) % 60, "min"],
    [whole % 60, "s"],
  ];
  const first = parts.findIndex(([value]) => value > 0);
  if (first < 0) return "0 s";
  return parts.slice(first, first + 2).filter(([value]) => value > 0).map((part) => part.join(" ")).join(" ");
}

/** How long ago, or when. */
export const ago = (unixSeconds, now = Date.now() / 1000) =>
  isNumber(unixSeconds) ? (now - unixSeconds < 5 ? "just now" : `${duration(now - unixSeconds)} ago`) : DASH;

const clock = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });
const short = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const full = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" });
const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });

export const time = (unixSeconds) => (isNumber(unixSeconds) ? clock.format(unixSeconds * 1000) : DASH);
export const minute = (unixSeconds, withDay = false) => (withDay ? day : short).format(unixSeconds * 1000);
export const moment = (unixSeconds) => (isNumber(unixSeconds) ? full.format(unixSeconds * 1000) : DASH);

/** A model for narrow places: a local folder by its last name. */
export const shortModel = (name) => (name.startsWith("/") ? name.replace(/\/+$/, "").split("/").pop() : name);

/** A value of a spec as text. */
export const plain = (value) =>
  value === null || value === undefined ? DASH : typeof value === "object" ? JSON.stringify(value) : String(value);
