// In one look: is it running, is anything stopped, is anyone waiting, and what happens now. Words first, then numbers;
// where something is wrong, what to do.

import { $, api, el, fill, me, money, part, shown, span, trouble } from "./hitl.js";
import { onState } from "./events.js";
import { short } from "./chart.js";

const LOOK_MS = 2000;
const RECENT_MS = 20_000; // of the live points, for the rate by now
const STALE_S = 10;
const SURE_LOOKS = 3; // a busy machine lets a lease lapse for a moment: that wakes nobody
const SHOWN_MAX = 5;
const ROLES = {
  control: ["Control roles", "Nobody proves that a kill switch is effective, and nothing is let out."],
  router: ["Routers", "What agents propose waits, undecided."],
  desk: ["Desks", "What people decide is not acted on."],
  executor: ["Executors", "What was approved is not carried out."],
};
const ROUTES = [["EXECUTE", "run by themselves"], ["REVIEW", "go to people"], ["ESCALATE", "are escalated"], ["HOLD", "are held back"], ["REFUSE", "are refused"]];

let who;
let state = null;
let lost = false;
let runs = null; // what GET /instances answered
const absent = {}; // by role: how many answers in a row had nobody of it
let live = null; // what GET /live answered
let hidden = false; // who decides for a client only is not shown how it runs

const many = (count, one, more) => `${count} ${count === 1 ? one : more}`;

// --- running ---

/** What is wrong with how it runs: [what, what to do]. */
function wrongs() {
  const found = [];
  if (lost) found.push(["The console does not answer.", "Look whether hitl run console is running."]);
  if (state?.missing) found.push([`Nothing can be decided here: ${state.missing}.`, "Look at the console's log, and whether Kafka is up."]);
  if (state?.view) found.push([`The queues cannot be read: ${state.view}.`, "Look whether the console's database is up."]);
  else if (state && state.stale_s === null) found.push(["The console has not read the queues yet.", "Wait a moment after its start; then look at its log."]);
  else if (state && state.stale_s > STALE_S) found.push([`What you see is ${span(state.stale_s)} old.`, "The console is behind; look whether Kafka is up."]);
  if (runs) {
    const alive = living();
    for (const [role, [name, means]] of Object.entries(ROLES)) {
      if (alive[role] === 0 && absent[role] >= SURE_LOOKS) found.push([`${name}: none is heard. ${means}`, `Start one: hitl run ${role}`]);
    }
  }
  return found;
}

/** Note an answer of GET /instances. */
function note(answer) {
  runs = answer;
  if (!runs) return;
  for (const [role, count] of Object.entries(living())) absent[role] = count === 0 ? (absent[role] ?? 0) + 1 : 0;
}

function living() {
  const counts = { control: runs.heard ? runs.control.length : 0 };
  for (const role of ["router", "desk", "executor"]) counts[role] = runs.instances.filter((one) => one.role === role && one.holds).length;
  return counts;
}

function running(wrong) {
  $("#running-panel").hidden = hidden;
  if (!runs) { fill($("#running"), el("p", { class: "faint" }, "Asking who runs…")); return; }
  const alive = living();
  const over = runs.instances.filter((one) => !one.holds).length;
  fill($("#running"),
    wrong.length === 0 && Object.values(alive).includes(0) ? el("p", { class: "faint" }, "Not every role is heard at this moment; looking again…")
    : wrong.length === 0
      ? el("p", {}, el("strong", { class: "is-good" }, "Yes. "), "Every role is heard, and the console is up to date.")
      : el("ul", { class: "wrongs" }, wrong.map(([what, todo]) => el("li", {}, el("strong", {}, shown(what)), " ", shown(todo)))),
    el("dl", { class: "counts" }, Object.entries(ROLES).map(([role, [name]]) => el("div", { class: alive[role] === 0 ? "none" : "" }, el("dt", {}, name), el("dd", {}, String(alive[role]))))),
    over > 0 ? el("p", { class: "small faint" }, `${many(over, "instance has", "instances have")} no lease, and let nothing out: `, el("a", { href: "/kill" }, "who is heard"), ".") : null);
}

// --- stopped ---

function stopped() {
  const engaged = state.switches;
  const open = engaged.filter((one) => one.state !== "EFFECTIVE").length;
  const line = (one) => el("li", {}, el("span", { class: `tag ${one.mode === "HALT" ? "bad" : "warn"}` }, one.mode), " ", el("code", { dir: "auto" }, shown(one.scope.join(" ") || "everything")),
    " ", el("span", { class: "small faint" }, one.state === "EFFECTIVE" ? "effective" : one.state));
  fill($("#stopped"), engaged.length === 0
    ? el("p", {}, el("strong", { class: "is-good" }, "No. "), "Agents act within the policy.")
    : [el("p", {}, el("strong", { class: "is-bad" }, `Yes: ${many(engaged.length, "switch is", "switches are")} engaged. `), open > 0 ? `${open} not proved yet.` : "All are effective."),
      el("ul", { class: "few" }, engaged.slice(-SHOWN_MAX).reverse().map(line), engaged.length > SHOWN_MAX ? el("li", { class: "faint" }, `and ${engaged.length - SHOWN_MAX} more`) : null)],
  el("p", { class: "small" }, el("a", { href: "/kill" }, who.scopes.includes("switches:engage") ? "Stop something, or see how to release it" : "Look closer")));
}

// --- waiting ---

/** Queues with something in them, the most overdue first; `late` is the oldest's wait as a share of what is the rule. */
function waiting() {
  return (state.queues ?? []).filter((one) => one.open > 0).map((one) => {
    const wait = one.oldest ? Math.max(0, (Date.now() - Date.parse(one.oldest)) / 1000) : 0;
    return { ...one, wait, late: wait / one.sla_s };
  }).sort((a, b) => b.late - a.late);
}

function sums(found) {
  const units = {};
  for (const one of found) for (const [unit, sum] of Object.entries(one.money)) units[unit] = (units[unit] ?? 0) + Number(sum);
  return money(units);
}

function queues() {
  const found = waiting();
  if (state.queues === null) { fill($("#queues"), el("p", { class: "faint" }, "The queues cannot be read now.")); return; }
  if (found.length === 0) {
    fill($("#queues"), el("p", {}, el("strong", { class: "is-good" }, "No. "), "Every queue is empty."));
    return;
  }
  const total = found.reduce((sum, one) => sum + one.open, 0);
  const worst = found[0];
  const stake = sums(found);
  const name = (one) => (one.yours && who.scopes.includes("items:decide") ? el("a", { href: `/review/${part(one.queue)}` }, shown(one.queue)) : shown(one.queue));
  fill($("#queues"),
    el("p", {}, el("strong", {}, `${many(total, "item waits", "items wait")} in ${many(found.length, "queue", "queues")}`), stake.length ? `, and ${stake.join(", ")} with ${total === 1 ? "it" : "them"}. ` : ". ",
      worst.late > 1
        ? [el("strong", { class: "is-bad" }, "Overdue: "), `the oldest of ${worst.queue} has waited ${span(worst.wait)}; ${span(worst.sla_s)} are the rule.`]
        : `The most pressing is ${worst.queue}: ${span(worst.wait)} of ${span(worst.sla_s)}.`),
    el("div", { class: "scroll" }, el("table", {},
      el("thead", {}, el("tr", {}, ["Queue", "Open", "Oldest", "Money"].map((title) => el("th", { scope: "col" }, title)))),
      el("tbody", {}, found.map((one) => el("tr", {}, el("th", { scope: "row", dir: "auto" }, name(one)), el("td", {}, String(one.open)),
        el("td", {}, el("span", { class: one.late > 1 ? "is-bad" : "" }, span(one.wait)), el("span", { class: "small faint" }, ` of ${span(one.sla_s)}`)),
        el("td", {}, sums([one]).join(", ") || "–")))))));
}

// --- rates ---

function rates() {
  $("#rates-panel").hidden = hidden;
  if (!live) { fill($("#rates"), el("p", { class: "faint" }, "Asking for the rates…")); return; }
  if (live.targets.length === 0) {
    fill($("#rates"), el("p", {}, "Not known: no metrics are read here."), el("p", { class: "small" }, el("a", { href: "/live" }, "How to set that")));
    return;
  }
  const now = (values) => values?.findLast((one) => one !== null) ?? null;
  const found = ROUTES.map(([route, words]) => [words, now(live.routes[route])]).filter(([, rate]) => rate !== null);
  const total = found.reduce((sum, [, rate]) => sum + rate, 0);
  const lag = Math.max(0, ...Object.values(live.lag).map((values) => now(values) ?? 0));
  fill($("#rates"),
    found.length === 0 ? el("p", {}, "Nothing was read in the last moments; the roles may be away.")
      : total === 0 ? el("p", {}, el("strong", {}, "Nothing. "), "No agent proposes anything.")
        : [el("p", {}, el("span", { class: "big" }, short(total)), " actions per second"),
          el("dl", { class: "counts" }, found.filter(([, rate]) => rate > 0).map(([words, rate]) => el("div", {}, el("dt", {}, words), el("dd", {}, short(rate)))))],
    lag > 1 ? el("p", {}, el("strong", {}, `Behind by ${span(lag)}. `), "More routers, or fewer agents, catch up.") : null,
    el("p", { class: "small" }, el("a", { href: "/live" }, "The last fifteen minutes")));
}

// --- all of it ---

function verdict(wrong) {
  const overdue = waiting().filter((one) => one.late > 1).length;
  const engaged = state.switches.length;
  const [kind, words] = wrong.length > 0 ? ["bad", hidden ? "Something is wrong." : `${many(wrong.length, "thing is", "things are")} wrong.`]
    : runs && Object.values(living()).includes(0) ? ["warn", "Looking who runs…"]
    : engaged > 0 ? ["warn", `It runs, and ${many(engaged, "switch holds", "switches hold")} something back.`]
      : overdue > 0 ? ["warn", `It runs, and ${many(overdue, "queue is", "queues are")} overdue.`]
        : ["good", "Everything runs."];
  const text = `${kind}${words}`;
  if ($("#verdict").dataset.text === text) return;
  $("#verdict").dataset.text = text;
  fill($("#verdict"), el("span", { class: `dot ${kind}`, "aria-hidden": "true" }), words);
}

/** Draw a part only where it has changed, so that nobody loses the link that has the focus. */
const drawn = new Map();
function once(name, what, draw) {
  const now = JSON.stringify(what);
  if (drawn.get(name) === now) return;
  drawn.set(name, now);
  draw();
}

function show() {
  if (!state) return;
  $("#all").hidden = false;
  const wrong = wrongs();
  verdict(wrong);
  once("queues", [state.queues, waiting().map((one) => [one.queue, span(one.wait)])], queues);
  once("stopped", state.switches, stopped);
  once("running", [wrong, runs && [living(), runs.instances.map((one) => one.holds)], hidden], () => running(wrong));
  once("rates", [live, hidden], rates);
}

const LINKS = [
  ["/review", "items:decide", "Review", "Decide what agents may not decide by themselves."],
  ["/batches", "batches:release", "Release batches", "Look at the sample, then let the rest go, or not."],
  ["/pairs", "pairs:judge", "Compare pairs", "Say which of two outputs is better."],
  ["/exceptions", "items:decide", "Mend exceptions", "What a platform refused, or nobody knows the end of."],
  ["/kill", "switches:engage", "Stop something", "One step; releasing takes two people."],
  ["/live", "queues:read", "Watch", "Rates, waits and lag of the last fifteen minutes."],
  ["/me", "items:decide", "See how you review", "Your own figures, and the quiz that qualifies you anew."],
  ["/watch", "queues:read", "Look after reviewers", "Whether the people of your queues still look."],
  ["/gates", "queues:read", "Weigh gates", "What could be said for removing each."],
  ["/audit", "actions:read", "Look into the past", "The whole story of one action."],
];

function links() {
  const found = LINKS.filter(([path, scope]) => who.scopes.includes(scope) && (path !== "/pairs" || who.roles.includes("labeller")) && (path !== "/live" || !hidden) && (path !== "/watch" || who.watches.length > 0) && (path !== "/gates" || !hidden));
  fill($("#links"), found.map(([path, , label, about]) => el("li", {}, el("a", { class: "panel", href: path }, el("strong", {}, label), el("span", { class: "small faint" }, about)))));
  $("#may-panel").hidden = found.length === 0;
}

function refused(error) {
  if (error.status !== 403) throw error;
  hidden = true;
  links();
  return null;
}

async function look() {
  if (hidden) return;
  try {
    const [answer, told] = await Promise.all([api("GET", "/instances").catch(refused), api("GET", `/live?after=${live ? live.now - RECENT_MS : -1}`).catch(refused)]);
    live = told;
    note(answer);
    fill($("#away"));
  } catch (error) {
    fill($("#away"), trouble(error, look));
  }
  show();
}

async function begin() {
  try {
    who = await me();
  } catch (error) {
    fill($("#verdict"));
    fill($("#away"), trouble(error, () => location.reload()));
    return;
  }
  links();
  onState((now, told) => { state = now; lost = told.lost; show(); });
  const again = async () => {
    if (!document.hidden) await look();
    setTimeout(again, LOOK_MS);
  };
  again();
}

begin();
