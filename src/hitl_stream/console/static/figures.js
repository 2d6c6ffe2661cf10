// Figures of people: a share as words and as a small bar, and what levels, rows and errors mean in plain words.

import { amount, el, shown, svg } from "./hitl.js";

const NUMBER = /^-?\d{1,30}(\.\d{1,30})?$/;

/** What a level means for whoever is at it. */
export const LEVELS = [
  ["Nothing stands out", "You are given a planted item now and then, as everybody is."],
  ["Watched", "You are given planted items somewhat more often. Nothing else changes."],
  ["Seconded", "What you approve is looked at by a second person, who does not know your answer."],
  ["Escalated", "What is of the highest tier goes to escalation instead of you, and your latest approvals are looked at again."],
];

/** What was seen of somebody, by the name that the monitor gives it. */
export const SIGNS = {
  hit_rate: "misses planted errors", misses_warn: "misses more planted errors than before", misses_page: "misses far more planted errors than before",
  hurried_warn: "often approves faster than anybody reads", hurried_page: "very often approves faster than anybody reads",
  objects_less: "objects less often than before", objects_more: "objects more often than before",
};

/** What an error of a type is, in a sentence about something planted. */
export const ERRORS = {
  limit: "an amount that nobody can mean", factual: "a claim that nobody can show", tone: "a tone that no customer should read",
  compliance: "something that breaks a rule or the law", other: "a text that is plainly broken",
};

/** "92 %" of a share; a dash where nobody can tell. */
export function percent(share) {
  return share === null || share === undefined ? "–" : `${Math.round(share * 100)}\u202f%`;
}

/** "1 item", "2 items". */
export function many(count, one, more = `${one}s`) {
  return `${amount(String(count))} ${count === 1 ? one : more}`;
}

/** A bar of `value` of `max`, with marks where something is seen; for the eye only: the number stands beside it. */
export function gauge(value, { max = 1, marks = [], kind = "" } = {}) {
  const at = (one) => Math.min(100, Math.max(0, (one / max) * 100));
  return svg("svg", { class: "gauge", viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("rect", { class: "track", x: 0, y: 2, width: 100, height: 6, rx: 1 }),
    svg("rect", { class: `fill ${kind}`, x: 0, y: 2, width: at(value ?? 0), height: 6, rx: 1 }),
    ...marks.map((one) => svg("line", { class: "mark", x1: at(one), x2: at(one), y1: 0, y2: 10 })));
}

/** How bad a value is that is better small: beyond the first mark it warns, beyond the second it is bad. */
export function kindOf(value, [warn, bad = Infinity]) {
  return value > bad ? "bad" : value > warn ? "warn" : "";
}

/** Where something was wrong in an item: "The bid was 130 EUR; 1.20 EUR stood before." */
export function spot(place) {
  if (place.field === "text") return el("span", {}, "The text read: ", el("q", { class: "words" }, shown(String(place.shown))));
  const figure = (any) => [shown(NUMBER.test(String(any)) ? amount(String(any)) : String(any)), place.unit ? [" ", shown(place.unit)] : null];
  return el("span", {}, "The ", el("strong", {}, shown(place.field)), " was ", el("strong", {}, figure(place.shown)),
    place.before === null || place.before === undefined ? null : ["; ", figure(place.before), " stood before"],
    place.proposed === null || place.proposed === undefined ? null : [", and ", figure(place.proposed), " had been proposed"], ".");
}
