// Exceptions: what each type is answered by, how many wait, and what could not be carried out and is yours to decide.

import { $, ago, api, el, fill, me, part, shown, span, words } from "./hitl.js";
import { keepAsking } from "./asking.js";
import { place } from "./card.js";
import { EXCEPTIONS } from "./plain.js";

const ASK_MS = 4000;
const MEANINGS = { ...EXCEPTIONS, negative: "Its tone was flagged.", ethical: "It was flagged as an ethical question." };
const OTHER = "Any other type, which the policy does not name.";
const NAMES = { platform: "Platform", campaign_constraint: "Campaign constraint", brand_flag: "Brand flag", data_quality: "Data quality", negative: "Negative tone", ethical: "Ethical" };

export function nameOf(type) { return type === null ? "Anything else" : NAMES[type] ?? type; }

// --- types ---

function types(rows) {
  return el("section", { class: "panel" }, el("h2", {}, "Types"),
    el("table", { class: "types stack" },
      el("thead", {}, el("tr", {}, ["Type", "Owner", "Queue", "Answered within", "Waiting"].map((name) => el("th", { scope: "col" }, name)))),
      el("tbody", {}, rows.map(type))));
}

function type(row) {
  const meaning = row.type === null ? OTHER : MEANINGS[row.type];
  const queue = row.yours ? el("a", { href: `/review/${part(row.queue)}` }, shown(row.queue)) : shown(row.queue);
  return el("tr", {},
    el("th", { scope: "row" }, el("span", {}, shown(nameOf(row.type))), meaning ? el("span", { class: "small faint meaning" }, meaning) : null),
    el("td", { "data-name": "Owner" }, shown(row.owner)),
    el("td", { "data-name": "Queue" }, queue, row.yours ? el("span", { class: "visually-hidden" }, " (yours)") : null),
    el("td", { "data-name": "Answered within" }, span(row.sla_s), row.next ? el("span", { class: "small faint" }, " then ", shown(row.next)) : null),
    el("td", { "data-name": "Waiting" }, row.open ? [el("strong", {}, String(row.open)), el("span", { class: "small faint" }, " oldest ", ago(row.oldest))] : el("span", { class: "faint" }, "none")));
}

// --- what could not be carried out ---

function items(told, decides) {
  const none = decides
    ? el("p", { class: "faint" }, "None waits for you. What a platform refuses, and what nobody can tell whether it ran, comes here.")
    : el("p", { class: "note" }, "You may look only: who decides in a queue finds here what they can decide.");
  return el("section", {}, el("h2", {}, "Could not be carried out"),
    told.items.length ? [el("p", {}, "Approve or change proposes it anew, as your own action. Reject leaves it as it ended."), el("ul", { class: "items" }, told.items.map(item))] : none,
    told.more ? el("p", { class: "small faint" }, `These are the ${told.items.length} most pressing; there are more.`) : null);
}

function item(row) {
  return el("li", { class: "panel" },
    el("div", { class: "row between" },
      el("h3", {}, shown(row.type), place(row.entity) ? [" ", el("span", { class: "faint" }, "on"), " ", shown(place(row.entity))] : null),
      el("span", { class: "tag warn" }, shown(nameOf(row.exception)))),
    row.says ? el("div", { class: "says" }, words(row.says)) : null,
    el("p", { class: "row between" },
      el("span", { class: "small faint" }, "Proposed by ", shown(row.agent.id), " · came ", ago(row.opened), " · to be decided ", ago(row.decide_by)),
      el("a", { class: "button", href: `/review/${part(row.queue)}` }, "Decide in ", shown(row.queue), el("span", { class: "visually-hidden" }, ", ", shown(row.type), " on ", shown(place(row.entity))))));
}

// --- asking ---

let last = "";

async function load() {
  const [who, told] = await Promise.all([me(), api("GET", "/exceptions")]);
  const text = JSON.stringify([told.types, told.items, told.more]);
  if (text === last) return;
  const held = document.activeElement?.closest("#all a")?.getAttribute("href");
  fill($("#all"), items(told, who.scopes.includes("items:decide")), told.types.length ? types(told.types) : null);
  if (held) [...document.querySelectorAll("#all a")].find((link) => link.getAttribute("href") === held)?.focus({ preventScroll: true });
  last = text;
}

keepAsking(load, ASK_MS);
