// The essential charts, from the same metrics as Prometheus reads, and from the view where there are none.

import { $, ago, api, el, fill, money, shown, span, trouble } from "./hitl.js";
import { onState } from "./events.js";
import { Lines, Timeline, clock, roundTime, short } from "./chart.js";

const STEP_MS = 2000;
const MODES = { HALT: "halt", REVIEW_ALL: "review", REDUCE_ONLY: "reduce" };
// What the routes mean, in the order of their strictness; so each keeps its colour.
const ROUTES = { EXECUTE: "runs by itself", REVIEW: "people are asked", ESCALATE: "escalated", HOLD: "held back", REFUSE: "refused" };
const RATE = "actions per second";

let kept = null; // what was told so far: {at, routes, approved, open, oldest, lag}
let charts = null;
let queues = null;
let watched = null;

const percent = (value) => (value === null || value === undefined ? "–" : `${Math.round(value * 100)} %`);
const seconds = (value) => (value === null || value === undefined ? "–" : value < 10 ? `${short(value)} s` : span(value));

/** Put what is new behind what is known, and drop what is too old. */
export function joined(before, told) {
  const since = told.now - told.kept_s * 1000;
  const at = [...(before?.at ?? []), ...told.at];
  const from = at.findIndex((ms) => ms > since);
  const cut = from < 0 ? at.length : from;
  const old = before?.at.length ?? 0;
  const line = (was, now, count) => [...(was ?? Array(old).fill(null)), ...(now ?? Array(count).fill(null))].slice(cut);
  const chart = (name) => {
    const labels = [...new Set([...Object.keys(before?.[name] ?? {}), ...Object.keys(told[name])])].sort();
    return Object.fromEntries(labels.map((label) => [label, line(before?.[name][label], told[name][label], told.at.length)]));
  };
  return {
    at: at.slice(cut),
    approved: line(before?.approved, told.approved, told.at.length),
    routes: chart("routes"), open: chart("open"), oldest: chart("oldest"), lag: chart("lag"),
  };
}

function build(told) {
  charts = { switches: new Timeline("Switches", { about: "What was stopped, and for how long.", empty: "Nothing was stopped in the last fifteen minutes." }) };
  if (told.targets.length > 0) {
    charts.routes = new Lines("Decisions by route", { about: "What the routers decide.", unit: RATE });
    charts.oldest = new Lines("Longest wait for people", { about: "How long the oldest open item of each queue waits.", unit: "time, by queue", says: seconds, rounds: roundTime });
    charts.approved = new Lines("Share of approvals", { about: "Of the judgements of the last five minutes.", unit: "share", most: 1, says: percent });
    charts.lag = new Lines("Lag", { about: "How long the oldest record waits that a role has not read.", unit: "time, by role", says: seconds, rounds: roundTime });
  }
  const order = ["routes", "oldest", "approved", "lag"].filter((name) => charts[name]);
  queues = el("div", {}, el("p", { class: "loading" }, "Asking for the queues…"));
  watched = el("section", { class: "panel", hidden: "" });
  fill($("#charts"), order.map((name) => charts[name].root), charts.switches.root,
    el("section", { class: "panel" }, el("h2", {}, "Queues now"), queues), watched);
  fill($("#setting"), told.targets.length > 0 ? null : el("div", { class: "note" },
    el("p", {}, el("strong", {}, "No metrics are read, so rates, waits and lag cannot be drawn.")),
    el("p", {}, "Name the /metrics of the roles in the console's setting ", el("code", {}, "console_scrape"), ", and start it again:"),
    el("p", {}, el("code", { class: "line" }, "HITL_CONSOLE_SCRAPE=http://router-1:9464/metrics,http://desk-1:9464/metrics hitl run console"))));
}

function draw(told) {
  const window = { from: told.now - told.kept_s * 1000, until: told.now };
  const named = (series) => Object.entries(series);
  const over = { ...window, at: kept.at };
  if (charts.routes) {
    const rank = Object.keys(ROUTES);
    const routes = rank.map((one) => [one, kept.routes[one] ?? kept.at.map(() => null)]);
    charts.routes.show({ ...over, series: [...routes, ...named(kept.routes).filter(([one]) => !rank.includes(one))].filter(([one, values]) => one === "EXECUTE" || one === "REVIEW" || values.some((value) => value)) });
    charts.oldest.show({ ...over, series: named(kept.oldest) });
    charts.approved.show({ ...over, series: [["approved", kept.approved]] });
    charts.lag.show({ ...over, series: named(kept.lag) });
  }
  charts.switches.show({ ...window, spans: told.switches.slice().reverse().map((one) => ({
    from: one.from, until: one.until, kind: MODES[one.mode],
    words: [one.epoch, one.mode, one.scope, one.until],
    label: () => el("span", {}, el("strong", {}, one.mode), " ", el("code", { dir: "auto" }, shown(one.scope.join(" ") || "everything")), ` from ${clock(one.from)} `, one.until === null ? "until now" : `until ${clock(one.until)}`),
  })) });
  watch(told.watched);
  const away = told.targets.filter((one) => one.trouble);
  fill($("#told"), told.targets.length === 0 ? "" : `The last ${Math.round(told.kept_s / 60)} minutes, read every ${told.step_s} s from ${told.targets.length} ${told.targets.length === 1 ? "process" : "processes"}.`);
  const text = JSON.stringify(away);
  if ($("#away").dataset.shown === text) return;
  $("#away").dataset.shown = text;
  fill($("#away"), away.length === 0 ? [] : el("div", { class: "note warn", role: "status" },
    el("p", {}, el("strong", {}, `${away.length} of ${told.targets.length} processes cannot be read; the charts lack them.`)),
    el("ul", {}, away.map((one) => el("li", {}, el("code", {}, shown(one.target)), ": ", shown(one.trouble)))),
    el("p", {}, "Look whether they run; the setting console_scrape names them.")));
}

/** Are people still looking? By queue; who it is, only a lead is told, after signing in. */
function watch(found) {
  const text = JSON.stringify(found);
  if (watched.dataset.shown === text) return;
  watched.dataset.shown = text;
  watched.hidden = found.length === 0;
  const alarm = (one) => [one.rubber_stamp > 0 ? "rubber stamp" : null, one.reviewer_unreliable > 0 ? "misses what is wrong" : null].filter((word) => word).join(", ");
  const alarmed = found.filter(alarm);
  fill(watched, el("h2", {}, "Are people still looking?"),
    el("p", { class: "small faint" }, "Of each queue's reviewers together. Caught: planted errors that were objected to. Too fast: approvals before anybody can have read. Level 1: watched, 2: a second person judges, 3: tier 3 goes on to others."),
    alarmed.length === 0 ? null : el("div", { class: "note bad", role: "status" }, el("p", {}, el("strong", {}, "Alarm: "), alarmed.map((one) => `${shown(one.queue)} (${alarm(one)})`).join(", "))),
    el("div", { class: "scroll" }, el("table", { class: "whole" },
      el("thead", {}, el("tr", {}, ["Queue", "Level", "Reviewers", "Caught", "Too fast", "Approved", "Alarm"].map((title) => el("th", { scope: "col" }, title)))),
      el("tbody", {}, found.map((one) => el("tr", {}, el("th", { scope: "row", dir: "auto" }, shown(one.queue)), el("td", {}, String(one.level)), el("td", {}, String(one.reviewers ?? "–")),
        [one.caught, one.hurried, one.approved].map((share) => el("td", {}, percent(share))), el("td", {}, alarm(one) || "–")))))));
}

function tell(found) {
  if (!queues || !found) return;
  const shownFirst = [...found].sort((a, b) => (b.open > 0) - (a.open > 0));
  fill(queues, found.length === 0 ? el("p", { class: "faint" }, "There is no queue that you may know of.") : el("div", { class: "scroll" }, el("table", { class: "whole" },
    el("thead", {}, el("tr", {}, ["Queue", "Open", "Oldest", "Money waiting"].map((title) => el("th", { scope: "col" }, title)))),
    el("tbody", {}, shownFirst.map((one) => el("tr", {}, el("th", { scope: "row", dir: "auto" }, shown(one.queue)), el("td", {}, String(one.open)), el("td", {}, one.oldest ? ago(one.oldest) : "–"),
      el("td", {}, money(one.money).join(", ") || "–")))))));
}

async function look() {
  try {
    const after = kept?.at.at(-1) ?? -1;
    const told = await api("GET", `/live?after=${after}`);
    if (!charts) { build(told); onState((state) => tell(state?.queues)); }
    kept = joined(kept, told);
    draw(told);
  } catch (error) {
    if (!charts) fill($("#charts"));
    $("#away").dataset.shown = "";
    fill($("#away"), trouble(error, look));
    if (error.status === 403) return false;
  }
  return true;
}

async function begin() {
  const goes = document.hidden || await look();
  if (goes) setTimeout(begin, STEP_MS);
}

begin();
