// Whether the people of a queue still look: each by pseudonym, with what was seen of them, and what to do about it.

import { $, ago, api, el, fill, me, part, shown } from "./hitl.js";
import { keepAsking } from "./asking.js";
import { LEVELS, SIGNS, gauge, kindOf, many, percent } from "./figures.js";

const ASK_MS = 5000;
const PAGES = { rubber_stamp: "Rubber stamp", reviewer_unreliable: "Unreliable" };
const ROWS = ["", "planted errors missed", "more planted errors missed than before", "approved faster than anybody reads", "objections grew rare or frequent", "two people judge alike too seldom"];
const KINDS = ["good", "warn", "bad", "bad"];

let limits = {};
let tenants = null;
let last = "";

const whoIs = (one) => one.name ? shown(one.name) : el("code", { class: "pseudonym" }, one.person);

function tag(level) {
  return el("span", { class: `tag ${KINDS[level]}` }, `Level ${level}: ${LEVELS[level][0].toLowerCase()}`);
}

// --- one queue ---

function queue(one) {
  const title = `queue-${one.queue}`;
  return el("section", { class: "panel", "aria-labelledby": title },
    el("div", { class: "level" }, el("h2", { id: title }, shown(one.queue)), one.reviewers > 0 ? tag(one.level) : null),
    one.reviewers === 0 ? el("p", { class: "faint" }, "Nobody has judged anything in it since yesterday.")
      : [el("p", {}, why(one)), todo(one), whole(one), el("h3", { class: "queue-part" }, "Reviewers since yesterday"), people(one)],
    alerts(one));
}

function why(one) {
  const [, watched, seconded, escalated] = one.at_levels;
  if (one.level === 0) return `${many(one.reviewers, "reviewer")}, and nothing stands out.`;
  const parts = [[escalated, "at level 3"], [seconded, "at level 2"], [watched, "at level 1"]].filter(([count]) => count > 0).map(([count, where]) => `${count} ${where}`);
  const more = one.level === 3 && escalated === 0 ? " So many at level 2 at once make it level 3." : "";
  return `Of ${many(one.reviewers, "reviewer")}: ${parts.join(", ")}.${more}`;
}

function todo(one) {
  if (one.level < 2) return null;
  const scope = tenants?.length === 1 ? `tenant:${tenants[0]}` : "global:*";
  const link = `/kill?scope=${part(scope)}&mode=REVIEW_ALL`;
  return el("div", { class: `note ${one.level === 3 ? "bad" : "warn"}` },
    el("p", {}, one.level === 3 ? "Approvals of this queue are not to be trusted now. Give its people a break, and let them take the quiz; what was approved lately is looked at again by others."
      : "Talk to whoever is at level 2, and let them take the quiz. Until then a second person looks at what they approve."),
    one.level === 3 ? el("p", {}, "If agents should approve nothing by themselves meanwhile: ", el("a", { href: link }, "REVIEW_ALL"), ".") : null);
}

/** What is known of the queue as a whole. */
function whole(one) {
  const rows = [["Planted errors seen", percent(one.hit_rate)], ["Approved too fast", percent(one.hurried)], ["Approved", percent(one.approved)]];
  if (one.pairs > 0) rows.push(["Blind second judgements alike", `${percent(one.agreement)} of ${one.pairs}`]);
  if (one.escaped !== null) rows.push(["Errors among what ran unseen", percent(one.escaped)]);
  return el("dl", { class: "facts" }, rows.map(([name, text]) => [el("dt", {}, name), el("dd", {}, text)]));
}

const COLUMNS = ["Reviewer", "Level", "Planted errors seen", "Missed lately", "Approved too fast", "Objections", "Approved", "Sight (d\u2032)"];

function people(one) {
  return el("div", { class: "stacked", tabindex: "0", role: "group", "aria-label": `Reviewers of ${one.queue}` }, el("table", {},
    el("thead", {}, el("tr", {}, COLUMNS.map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", {}, one.people.map(person))));
}

function person(one) {
  const missing = Math.max(one.rarer, one.oftener);
  const cell = (name, ...children) => el("td", { "data-name": name }, ...children);
  const hits = one.hit_rate === null ? 0 : one.canaries >= limits.canaries_min && one.hit_rate < limits.hit_rate_min ? 2 : 0;
  return el("tr", {}, el("th", { scope: "row" }, whoIs(one)),
    cell("Level", tag(one.level), one.signs.map((sign) => el("div", { class: "small" }, SIGNS[sign.sign] ?? sign.sign))),
    cell(COLUMNS[2], one.canaries === 0 ? "none yet" : `${percent(one.hit_rate)} of ${one.canaries}`, gauge(one.hit_rate, { marks: [limits.hit_rate_min], kind: hits ? "bad" : "" })),
    cell(COLUMNS[3], one.misses.toFixed(1), gauge(one.misses, { max: 9, marks: [limits.misses_warn, limits.misses_page], kind: kindOf(one.misses, [limits.misses_warn, limits.misses_page]) })),
    cell(COLUMNS[4], percent(one.hurried), gauge(one.hurried, { max: 0.5, marks: [limits.hurried_warn, limits.hurried_page], kind: kindOf(one.hurried ?? 0, [limits.hurried_warn, limits.hurried_page]) })),
    cell(COLUMNS[5], one.rarer >= one.oftener ? `rarer: ${one.rarer.toFixed(1)}` : `more: ${one.oftener.toFixed(1)}`, gauge(missing, { max: 7, marks: [limits.objections], kind: kindOf(missing, [limits.objections]) })),
    el("td", { class: "whole-cell", "data-name": COLUMNS[6] }, `${percent(one.approved)} of ${one.items}`),
    cell(COLUMNS[7], one.sense === null ? "too few" : String(one.sense)));
}

function alerts(one) {
  if (one.alerts.length === 0) return null;
  return [el("h3", { class: "queue-part" }, "Alerts of the last seven days"), el("ul", { class: "plain-list" }, one.alerts.map((row) => el("li", {},
    el("span", { class: "row" }, ago(row.at), row.person ? whoIs(row) : el("strong", {}, "the queue"), row.page ? el("span", { class: "tag bad" }, PAGES[row.page] ?? shown(row.page)) : null, tag(row.level)),
    el("div", { class: "small" }, row.text ? shown(row.text) : ROWS[row.row] ?? "")))) ];
}

/** Queues of which there is nothing to say, in one line. */
function idle(rows) {
  if (rows.length === 0) return null;
  return el("p", { class: "faint" }, "Nobody has judged anything since yesterday, as far as the monitor knows, in ", rows.map((one, at) => [at > 0 ? ", " : null, shown(one.queue)]), ".");
}

// --- asking ---

async function load() {
  const [who, told] = await Promise.all([me(), api("GET", "/watch")]);
  limits = told.limits;
  tenants = who.tenants;
  const text = JSON.stringify(told);
  if (text === last) return;
  last = text;
  const busy = told.queues.filter((one) => one.reviewers > 0 || one.alerts.length > 0);
  const named = told.queues.some((one) => one.people.some((each) => each.name));
  fill($("#all"), told.trouble ? el("p", { class: "note warn" }, `What the monitor knows may be out of date: ${told.trouble}.`) : null,
    busy.sort((a, b) => b.level - a.level).map(queue), idle(told.queues.filter((one) => !busy.includes(one))),
    el("p", { class: "small faint" }, named ? "Names are shown since this site says so (console_names)." : "People stand here by pseudonym. A mark on a bar is where something is noticed; no level depends on how often somebody approves.",
      " ", el("a", { href: "/gates" }, "Gates and their evidence")));
}

keepAsking(load, ASK_MS);
