// Asking again and again how things stand, as long as somebody looks: what a page shows follows the desk by itself.

import { $, Problem, fill, trouble } from "./hitl.js";

const AWAY_MS = 2000; // a console that does not answer is asked again after so long

/** Two frames on, what was put on the page has been painted. */
export function paintedSoon() {
  return new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
}

/**
 * Call `load()` now and then every `ms`; returns what does so at once. What goes wrong stands in #wrong, over what was
 * shown last, and goes away with the next answer.
 */
export function keepAsking(load, ms) {
  let timer;
  let asking = null;
  const again = async () => {
    clearTimeout(timer);
    let wait = ms;
    try {
      await load();
      fill($("#wrong"));
    } catch (error) {
      fill($("#wrong"), trouble(error, now));
      const first = $("#all .loading");
      if (first) first.remove();
      if (error instanceof Problem && error.passes) wait = Math.min(ms, AWAY_MS);
      else if (!(error instanceof Problem) || error.status < 500) return; // the same answer would come again
    }
    timer = setTimeout(later, wait);
  };
  const later = () => { if (document.hidden) timer = setTimeout(later, ms); else now(); };
  const now = () => { asking ??= again().finally(() => { asking = null; }); return asking; };
  document.addEventListener("visibilitychange", () => { if (!document.hidden) now(); });
  now();
  return now;
}
