// Gates: in which state each is for whom, what is known for letting go of it, and the line that an operator runs.
//
// Nothing is changed here: a removal takes two operators' own keys, which the console never holds.

import { $, amount, api, el, fill, shown } from "./hitl.js";
import { keepAsking } from "./asking.js";
import { gauge, many, percent } from "./figures.js";

const ASK_MS = 10_000;
const STATES = { enforce: ["good", "stops"], observe: ["warn", "only labels"], removed: ["bad", "is not asked"] };
const E_SHOWN_MAX = 1e6;

let last = "";

function gate(row, needs) {
  const title = `gate-${row.gate}`;
  return el("section", { class: "panel", "aria-labelledby": title },
    el("h2", { id: title }, shown(row.gate)),
    el("p", { class: "small faint" }, "Owner ", shown(row.owner), " · checks ", shown(row.validators.join(", "))),
    states(row), evidence(row, needs));
}

function states(row) {
  return el("div", { class: "stacked", tabindex: "0", role: "group", "aria-label": `States of ${row.gate}` }, el("table", {},
    el("thead", {}, el("tr", {}, ["Kind of action", "For", "State"].map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", {}, row.states.map((one) => el("tr", {},
      el("th", { scope: "row" }, shown(one.class), row.protected.includes(one.class) ? [" ", el("span", { class: "tag" }, "protected: never removed")] : null),
      el("td", { "data-name": "For" }, one.agent ? shown(one.agent) : "every agent"),
      el("td", { "data-name": "State" }, el("span", { class: `tag ${STATES[one.state][0]}` }, STATES[one.state][1])))))));
}

function evidence(row, needs) {
  if (row.protected.length === row.classes.length) return el("p", { class: "queue-part" }, "It judges protected kinds of action only, and stays whatever the numbers say.");
  if (!row.evidence) return el("p", { class: "queue-part faint" }, `Nothing is known for letting go of it. That takes ${many(needs.items, "judged output")} of one agent's version over ${needs.days} days, with planted errors seen among them.`);
  const agents = [...new Set(row.evidence.map((one) => one.agent))];
  return [el("h3", { class: "queue-part" }, "Evidence, by agent version and type of error"), table(row, needs), agents.map((agent) => offer(row, agent))];
}

function short(e) {
  return e >= E_SHOWN_MAX ? "more than a million" : e >= 10 ? amount(String(Math.round(e))) : e.toPrecision(2);
}

const COLUMNS = ["Agent version", "Error", "Judged", "Wrong", "Planted errors seen", "Days", "E", "What is missing"];

function table(row, needs) {
  const cell = (at, ...children) => el("td", { "data-name": COLUMNS[at] }, ...children);
  return el("div", { class: "stacked", tabindex: "0", role: "group", "aria-label": `Evidence about ${row.gate}` }, el("table", {},
    el("thead", {}, el("tr", {}, COLUMNS.map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", {}, row.evidence.map((one) => el("tr", {}, el("th", { scope: "row" }, shown(one.agent)), cell(1, shown(one.error)),
      cell(2, amount(String(one.items)), gauge(one.items, { max: needs.items * 1.25, marks: [needs.items] })),
      cell(3, `${amount(String(one.errors))}; ${percent(one.borne)} are borne`),
      cell(4, one.canaries === 0 ? "none was planted" : `${one.caught} of ${one.canaries}`),
      cell(5, String(one.days), gauge(one.days, { max: needs.days * 1.25, marks: [needs.days] })),
      cell(6, short(one.e), gauge(Math.log(Math.max(1, one.e)), { max: Math.log(needs.e) * 1.25, marks: [Math.log(needs.e)] })),
      cell(7, one.missing.length === 0 ? el("span", { class: "tag good" }, "nothing") : el("ul", { class: "plain-list small" }, one.missing.map((text) => el("li", {}, shown(text))))))))));
}

function offer(row, agent) {
  const rows = row.evidence.filter((one) => one.agent === agent);
  const isGone = row.states.some((one) => one.agent === agent && one.state === "removed");
  if (isGone || rows.some((one) => one.missing.length > 0)) return null;
  return el("div", { class: "note good" }, el("p", {}, "For ", el("strong", {}, shown(agent)), " this gate could go. Two operators run, each with a key of their own:"),
    el("code", { class: "command", tabindex: "0" }, shown(`hitl gates remove ${row.gate} --agent ${agent} --reason "..."`)),
    el("p", { class: "small" }, "Audits of what it then lets through put it back by themselves if errors grow."));
}

async function load() {
  const told = await api("GET", "/gates");
  const text = JSON.stringify(told);
  if (text === last) return;
  last = text;
  fill($("#all"), told.trouble ? el("p", { class: "note warn" }, `Evidence may be missing or out of date: ${told.trouble}.`) : null,
    told.gates.length === 0 ? el("section", { class: "panel empty" }, el("h2", {}, "There is no gate"), el("p", {}, "The policy in force names none.")) : told.gates.map((row) => gate(row, told.needs)));
}

keepAsking(load, ASK_MS);
