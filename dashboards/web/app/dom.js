// What components are written with.
import htm from "../vendor/htm.js";
import { h } from "../vendor/preact.js";

export { render } from "../vendor/preact.js";
export { useEffect, useLayoutEffect, useMemo, useRef, useState } from "../vendor/hooks.js";

export const html = htm.bind(h);

/** Class names that are not empty, joined. */
export const classes = (...names) => names.filter(Boolean).join(" ");
