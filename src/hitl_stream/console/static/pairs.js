// Pairs: which of two outputs is better. Nothing runs by it, and which is which nobody here knows.
//
// A choice rests for three seconds in the outbox, in which it can be undone; the next pair comes at once.

import { $, api, el, fill, me, say, shown, trouble, words } from "./hitl.js";
import { paintedSoon } from "./asking.js";
import { read } from "./card.js";
import { hold, letGo } from "./holding.js";
import { keys } from "./keys.js";
import { Outbox, REST_MS } from "./outbox.js";

const LOOK_MS = 10_000; // so often it is looked for a pair while none waits
const TICK_MS = 250;
const ASIDE_MAX = 200; // pairs put aside; of more the oldest come again
const LABELLER = "labeller";
const CHOICES = [
  { key: "1", choice: "left", label: "Left is better" },
  { key: "0", choice: "tie", label: "Equally good" },
  { key: "n", choice: "both_bad", label: "Both are bad" },
  { key: "2", choice: "right", label: "Right is better" },
];
const DONE = { left: "Left", right: "Right", tie: "Equally good", both_bad: "Both bad" };

let outbox;
let shownPair = null; // {one, receipt}
let aside = []; // skipped
let elsewhere = []; // another tab shows them
let done = 0;
let looking;
let turn = 0; // what was asked for before an undo comes too late

// --- being given pairs ---

async function next() {
  clearTimeout(looking);
  shownPair = null;
  const mine = ++turn;
  try {
    for (;;) {
      const query = new URLSearchParams([...aside, ...elsewhere, ...outbox.items].map((name) => ["without", name]));
      const { pair } = await api("GET", `/pairs/next?${query}`);
      if (mine !== turn) return;
      if (!pair) { none(); return; }
      if (await hold(pair.pair)) {
        const one = await read({ item: pair.pair, card: pair.card, view: pair.view });
        if (mine === turn) show(one);
        else letGo(pair.pair);
        return;
      }
      elsewhere = [...elsewhere, pair.pair].slice(-ASIDE_MAX);
    }
  } catch (error) {
    if (mine !== turn) return;
    fill($("#all"), trouble(error, next));
    if (error.passes) looking = setTimeout(next, LOOK_MS);
  }
}

function show(one) {
  shownPair = { one, receipt: null };
  fill($("#all"), draw(one));
  $("#pair").focus({ preventScroll: true });
  const mine = shownPair;
  mine.receipt = paintedSoon().then(() => api("POST", `/pairs/${encodeURIComponent(one.item)}/painted`, { view: one.view })).then((told) => told.receipt);
  mine.receipt.catch(() => {}); // the outbox asks for it again
}

function none() {
  elsewhere = [];
  fill($("#all"), el("div", { class: "panel empty" }, el("h2", { id: "pair", tabindex: "-1" }, "No pair waits"),
    el("p", {}, aside.length ? `You put ${aside.length} aside. Otherwise everything is compared.` : "Everything is compared. A new pair comes here by itself."),
    aside.length ? el("button", { type: "button", onclick: () => { aside = []; next(); } }, "Show those again") : null));
  looking = setTimeout(next, LOOK_MS);
}

// --- drawing ---

function draw({ card }) {
  return el("article", { class: "pair" },
    el("section", { class: "panel prompt", "aria-labelledby": "pair" }, el("h2", { id: "pair", tabindex: "-1" }, "What was asked for"), words(card.prompt)),
    el("div", { class: "sides" }, side("Left", card.left), side("Right", card.right)),
    el("div", { class: "choices", role: "group", "aria-label": "Which is better?" }, CHOICES.map(button)),
    el("p", { class: "row after" }, el("button", { type: "button", onclick: skip }, "Skip", el("kbd", {}, "space")), el("span", { class: "small faint" }, "Nothing runs by what you say here. ", el("kbd", {}, "?"), " shows the keys.")));
}

function side(name, text) {
  return el("section", { class: `panel side ${name.toLowerCase()}`, "aria-label": name }, el("h2", {}, name), text === "" ? el("p", { class: "faint" }, "Nothing: this output is empty.") : words(text));
}

function button({ key, choice, label }) {
  return el("button", { type: "button", class: `choice ${choice}`, onclick: () => choose(choice) }, label, el("kbd", {}, key));
}

// --- choosing ---

function choose(choice) {
  if (!shownPair) return;
  const { one, receipt } = shownPair;
  shownPair = null;
  const title = `${DONE[choice]}: ${one.card.prompt}`;
  outbox.put({ item: one.item, view: one.view, title, body: { choice } }, receipt.catch(() => null), one);
  next();
}

function skip() {
  if (!shownPair) return;
  const name = shownPair.one.item;
  aside = [...aside, name].slice(-ASIDE_MAX);
  letGo(name);
  next();
}

function undo() {
  const entry = outbox.undo();
  if (!entry) { say("Nothing rests any more that could be undone."); return; }
  if (shownPair) letGo(shownPair.one.item); // it comes again, after the one that was undone
  clearTimeout(looking);
  turn += 1;
  if (entry.kept) show(entry.kept);
  else next();
}

// --- what rests ---

function resting() {
  const entry = outbox.mine.findLast((one) => outbox.rests(one));
  const waiting = outbox.waiting.length;
  const told = [];
  if (entry) {
    const left = Math.ceil((entry.due - Date.now()) / 1000);
    told.push(el("span", {}, el("strong", {}, DONE[entry.body.choice]), ` is sent in ${Math.min(left, REST_MS / 1000)} s`), el("button", { type: "button", class: "plain", onclick: undo }, "Undo", el("kbd", {}, "u")));
  }
  if (outbox.trouble) told.push(el("span", { class: "late" }, shown(`${outbox.trouble.problem.message} ${waiting} to be sent; it is tried again by itself.`)), el("button", { type: "button", class: "plain", onclick: () => outbox.now() }, "Try now"));
  const text = told.map((node) => node.textContent).join();
  if ($("#rest").dataset.shown !== text) { $("#rest").dataset.shown = text; fill($("#rest"), told); }
  $("#done").textContent = done ? `${done} compared in this tab` : "";
}

function sent(entry) {
  done += 1;
  letGo(entry.item);
  resting();
}

function refused(entry, problem) {
  letGo(entry.item);
  if (problem.type === "not_found") say("A pair that you compared was compared by somebody else before.");
  else say(`${DONE[entry.body.choice]} was not taken: ${problem.message} ${problem.todo}`, { kind: "bad", stays: true });
}

// --- beginning ---

function only() {
  fill($("#all"), el("div", { class: "panel empty" }, el("h2", {}, "Pairs are for labellers"), el("p", {}, "You have not that role. An administrator gives it: ", el("code", {}, "hitl user role NAME --add labeller"), ".")));
}

try {
  const who = await me();
  if (!who.roles.includes(LABELLER) || !who.scopes.includes("pairs:judge")) only();
  else {
    fill($("#title"), "Which is better?");
    const title = $("#title");
    const top = el("div", { class: "row top-of-pairs" }, el("div", { id: "rest", class: "row", role: "status" }), el("span", { id: "done", class: "small faint" }));
    title.before(top);
    top.prepend(title);
    outbox = new Outbox(who.name, { change: resting, sent, refused }, sessionStorage, "pairs");
    setInterval(resting, TICK_MS);
    const table = Object.fromEntries(CHOICES.map(({ key, choice, label }) => [key, { label, run: () => choose(choice) }]));
    keys({ ...table, t: { label: "Equally good", run: () => choose("tie") }, space: { label: "Skip", run: skip }, u: { label: `Undo, for ${REST_MS / 1000} s`, run: undo } });
    await next();
  }
} catch (error) {
  fill($("#all"), trouble(error, () => location.reload()));
}
