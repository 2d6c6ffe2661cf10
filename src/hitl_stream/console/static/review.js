// One queue, one item at a time: look, decide by a key, and the next one stands there.
//
// What comes next is here already, claimed and drawn; a decision rests in the outbox; so no key waits for the network.
// That a card was painted is said to the console two frames after it was shown, and the verdict carries its receipt.

import { $, Problem, ago, api, el, fill, freshen, me, part, request, say, shown, span, trouble } from "./hitl.js";
import { paintedSoon } from "./asking.js";
import { onState } from "./events.js";
import { keys } from "./keys.js";
import { confirmation, confirms, draw, headline, read } from "./card.js";
import { NOTE_LENGTH_MAX, changeForm } from "./change.js";
import { hold, letGo } from "./holding.js";
import { ERRORS, spot } from "./figures.js";
import { Outbox } from "./outbox.js";
import { VERDICTS, effect } from "./plain.js";

const AHEAD = 3;
const HEARTBEAT_MS = 30_000;
const AWAY_MS = 10 * 60_000; // without a key or a hand, the items go back to the others
const LOOK_AGAIN_MS = 5000; // while nothing waits
const AGAIN_MS = [1000, 2000, 4000, 8000, 15_000];
const READ_BACK_MS = [1500, 3000, 6000, 15_000, 30_000];
const LATELY_MAX = 8;
const WITHOUT_MAX = 200;
const HOUR_MS = 3_600_000;
const CODES_BY_KEY = 9;
const SHORT_S = 120; // a deadline as near as this is in colour
const FLOOR_SPARE_MS = 250;

const queue = decodeURIComponent(location.pathname.split("/")[2] ?? "");
const place = $("#place");
const bar = $("#bar");

let who = null;
let reasons = [];
let outbox = null;
let current = null; // {item, view, card, node, receipt, shownAt}
let ahead = [];
let choosing = null; // what is asked before the decision: a reason, a change
let order = "deadline";
let skewMs = 0; // the console's clock is ahead of ours by so much
let tries = 0;
let filling = false;
let fillAgain = false;
let fillTimer = null;
let touchedAt = Date.now();
let away = false;
let began = false;
let rest = null; // a break that is due: {items, since, until, paused}
let restSaid = false;
let trouble_ = null;
const out = new Set(); // decided here, and not given back
const aside = new Set();
const elsewhere = new Set(); // in another tab
const lately = [];

const now = () => Date.now() + skewMs;

// --- the beginning ---

begin().catch((error) => fill(place, trouble(error, () => location.reload())));

async function begin() {
  document.title = `${queue} · Review`;
  fill($("#queue"), shown(queue));
  who = await me();
  const [known, found] = await Promise.all([api("GET", "/reasons"), api("GET", "/queues")]);
  reasons = known.reasons;
  const one = found.queues.find((each) => each.queue === queue);
  if (!who.scopes.includes("items:decide") || !one?.yours) { lookOnly(one); return; }
  count(one.open);
  lapses();
  outbox = new Outbox(who.name, { change: drawOutbox, sent, refused });
  outbox.mine.forEach((entry) => out.add(entry.item));
  tools();
  drawBar();
  drawOutbox();
  onState((state) => {
    const mine = (state?.queues ?? []).find((each) => each.queue === queue);
    if (mine) count(mine.open);
  });
  setInterval(heartbeat, HEARTBEAT_MS);
  setInterval(tick, 1000);
  for (const kind of ["keydown", "pointerdown", "pointermove", "scroll"]) addEventListener(kind, touched, { passive: true });
  addEventListener("pagehide", leave);
  addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
  addEventListener("online", () => { tries = 0; refill(); });
  await refill();
}

/** A qualification that ends soon is announced once, before there is a card that it could move. */
function lapses() {
  const [name, ...others] = who.soon;
  if (name === undefined) return;
  fill($("#lapses"), "Your qualification for ", el("strong", {}, shown(name)), " ends ", ago(who.qualified[name]), others.length > 0 ? `, and ${others.length} more soon` : null, ": ", el("a", { href: "/quiz" }, "take the quiz"), ".");
  $("#lapses").hidden = false;
}

function lookOnly(one) {
  const waits = one ? `${one.open} ${one.open === 1 ? "item waits" : "items wait"} in it.` : "";
  fill(place, el("section", { class: "panel empty" }, el("h2", {}, one ? "You may look only" : "There is no such queue for you"),
    el("p", {}, one ? `${waits} Deciding in this queue takes a role that your account has not; an administrator gives it: ` : "It is another's, or the policy does not have it.",
      one ? el("code", {}, `hitl user role ${who.name} --add ROLE`) : null),
    el("a", { class: "button", href: "/review" }, "All queues")));
  bar.hidden = true;
}

function tools() {
  const choose = el("select", { id: "order", onchange: () => reorder(choose.value) },
    el("option", { value: "deadline" }, "Most pressing first"), el("option", { value: "uncertain" }, "Most uncertain first"));
  fill($("#tools"), el("label", { for: "order", class: "visually-hidden" }, "Order"), choose);
}

function reorder(wanted) {
  order = wanted;
  ahead.splice(0).forEach(giveBack);
  choose_(null);
  if (current) { giveBack(current); current = null; waiting("Asking for the next item…"); }
  refill();
}

// --- being given items ---

async function refill() {
  clearTimeout(fillTimer);
  if (filling) { fillAgain = true; return; }
  if (away) return;
  filling = true;
  fillAgain = false;
  try {
    const answer = await api("GET", `/queues/${part(queue)}/next?${asked()}`);
    resting(answer.rest);
    await take(answer.items);
    tries = 0;
    trouble_ = null;
    if (!current) nothing();
  } catch (error) {
    failed(error);
  } finally {
    filling = false;
  }
  if (fillAgain) refill();
}

function asked() {
  const query = new URLSearchParams({ order, count: String(AHEAD + 1) });
  const without = [...outbox.items, ...[...out].reverse(), ...elsewhere, ...[...aside].reverse()];
  for (const item of [...new Set(without)].slice(0, WITHOUT_MAX)) query.append("without", item);
  return query;
}

function failed(error) {
  if (error instanceof Problem && !error.passes && error.status !== 429) { trouble_ = null; if (!current) fill(place, trouble(error, refill)); else say(error.message, { kind: "bad" }); return; }
  trouble_ = error;
  const wait = AGAIN_MS[Math.min(tries, AGAIN_MS.length - 1)];
  tries += 1;
  if (!current) fill(place, trouble(error, refill));
  fillTimer = setTimeout(refill, wait);
}

const isOut = (item) => out.has(item) || aside.has(item) || elsewhere.has(item);

async function take(items) {
  const known = new Map([current, ...ahead].filter(Boolean).map((one) => [one.item, one]));
  const fresh = [];
  let foreign = false;
  for (const item of items) {
    if (isOut(item.item)) continue;
    const old = known.get(item.item);
    if (old?.view === item.view) { fresh.push(old); continue; }
    if (!await hold(item.item)) { elsewhere.add(item.item); foreign = true; continue; }
    const one = await readable(item);
    if (one) fresh.push(one);
  }
  const changed = current && fresh.find((one) => one.item === current.item && one !== current);
  if (changed) { say("This item has changed while you looked at it. What stands there now is what counts.", { kind: "bad" }); show(changed); }
  const rest = ahead.filter((one) => !fresh.some((each) => each.item === one.item));
  const all = [...fresh, ...rest].filter((one) => one.item !== current?.item && !isOut(one.item));
  all.splice(AHEAD + (current ? 0 : 1)).forEach(giveBack);
  ahead = all;
  if (!current && ahead.length > 0) show(ahead.shift());
  if (foreign) { setTimeout(() => elsewhere.clear(), LOOK_AGAIN_MS); fillAgain = fillAgain || ahead.length === 0; }
}

async function readable(item) {
  try {
    const one = await read(item);
    one.node = draw(one);
    return one;
  } catch (error) {
    aside.add(item.item);
    giveBack(item);
    say(`One item cannot be shown, and was left: ${error.message}.`, { kind: "bad", stays: true });
    return null;
  }
}

function giveBack(one) {
  letGo(one.item);
  api("DELETE", `/items/${part(one.item)}/claim`).catch(() => {}); // it ends by itself
}

/** A break that is due: it is suggested once, beside the card; later nothing new comes until it was had. */
function resting(found) {
  rest = found;
  if (rest === null) restSaid = false;
  if (rest === null || rest.paused || restSaid) return;
  restSaid = true;
  say(`You have decided ${rest.items} items without a break. A short one does good: after five minutes it counts as had.`, { stays: true, action: { label: "Understood", run: () => {} } });
}

function pausing() {
  if (place.querySelector(".empty[data-rest]")) return;
  const time = (iso) => new Date(iso).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hour12: false });
  const title = el("h2", { tabindex: "-1" }, "Time for a break");
  fill(place, el("section", { class: "panel empty", "data-rest": "1" }, title,
    el("p", {}, `You have decided ${rest.items} items since ${time(rest.since)} without one, and nobody sees well for so long. At ${time(rest.until)} the next item comes by itself.`),
    el("div", { class: "row center" }, button("Go on without a break", "g", goOn), el("a", { class: "button", href: "/review" }, "All queues"))));
  drawBar();
  bindKeys();
  title.focus({ preventScroll: true });
}

async function goOn() {
  try {
    await api("DELETE", "/rest");
    rest = null;
    waiting("Asking for the next item…");
    refill();
  } catch (error) {
    fill(place, trouble(error, refill));
  }
}

function nothing() {
  if (rest?.paused) { pausing(); fillTimer = setTimeout(refill, LOOK_AGAIN_MS); return; }
  const again = aside.size > 0 ? el("button", { type: "button", onclick: () => { aside.clear(); waiting("Asking for the next item…"); refill(); } }, aside.size === 1 ? "Show the skipped one again" : `Show the ${aside.size} skipped ones again`) : null;
  if (!place.querySelector(".empty[data-aside='" + aside.size + "']")) {
    fill(place, el("section", { class: "panel empty", "data-aside": String(aside.size) }, el("h2", { tabindex: "-1" }, "Nothing waits for you here"),
      Object.keys(who.qualified).length === 0 ? el("p", { class: "note warn" }, "You are qualified for no kind of action just now, so that nothing is given to you: ", el("a", { href: "/quiz" }, "take the quiz"), ".") : null,
      el("p", {}, "What comes is shown by itself. ", elsewhere.size > 0 ? "Another tab of yours has the rest." : "What somebody else holds, or what you may not decide, is not shown."), el("div", { class: "row center" }, again, el("a", { class: "button", href: "/review" }, "All queues"))));
    drawBar();
    bindKeys();
  }
  fillTimer = setTimeout(refill, LOOK_AGAIN_MS);
}

function waiting(text) {
  fill(place, el("p", { class: "loading", role: "status" }, text));
  drawBar();
  bindKeys();
}

// --- showing one ---

function show(one) {
  choosing = null;
  current = one;
  fill(place, one.node);
  drawBar();
  bindKeys();
  tick();
  scrollTo(0, 0);
  one.node.querySelector(".card-title").focus({ preventScroll: true });
  if (!one.receipt) one.receipt = painted(one);
}

async function painted(one) {
  await paintedSoon();
  for (let at = 0; ; at += 1) {
    try {
      const answer = await api("POST", `/items/${part(one.item)}/painted`, { view: one.view });
      skewMs = Date.parse(answer.painted) - Date.now();
      one.shownAt = Date.now();
      tick();
      return answer.receipt;
    } catch (error) {
      if (error.passes || error.status === 429) { await pause(AGAIN_MS[Math.min(at, AGAIN_MS.length - 1)]); continue; }
      lost(one, error);
      return null;
    }
  }
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** An item that is not ours any more: the next one comes, and it is said why. */
function lost(one, problem) {
  if (out.has(one.item)) return; // the outbox says what becomes of it
  ahead = ahead.filter((each) => each !== one);
  letGo(one.item);
  if (current !== one) return;
  say(`${headline(one.card)}: ${problem.message}`, { kind: "bad" });
  next();
}

function next() {
  current = null;
  choosing = null;
  const one = ahead.shift();
  if (one) show(one);
  else waiting(trouble_ ? "The console does not answer; it is asked again by itself." : "Asking for the next item…");
  refill();
}

// --- deciding ---

function decide(verdict, more = {}) {
  const one = current;
  if (!one) return;
  out.add(one.item);
  outbox.put({ item: one.item, view: one.view, title: headline(one.card), body: { verdict, ...more } }, one.receipt, one);
  fill($("#announce"), `${VERDICTS[verdict]}. It is sent in three seconds; u takes it back.`);
  next();
}

function skip() {
  const one = current;
  if (!one) return;
  aside.add(one.item);
  letGo(one.item);
  Promise.resolve(one.receipt).then((receipt) => {
    const seen = receipt ? `?${new URLSearchParams({ view: one.view, painted: receipt })}` : "";
    return api("DELETE", `/items/${part(one.item)}/claim${seen}`);
  }).catch(() => {});
  one.receipt = null;
  fill($("#announce"), "Skipped.");
  next();
}

function undo() {
  const entry = outbox.undo();
  if (!entry) { say("Nothing rests any more: what was sent stays sent."); return; }
  closeChange();
  out.delete(entry.item);
  fill($("#announce"), `Taken back: ${entry.title}.`);
  if (!entry.kept) { refill(); return; }
  if (current) ahead.unshift(current);
  show(entry.kept);
}

function sent(entry, answer) {
  letGo(entry.item);
  const times = hour();
  times.push(Date.now());
  sessionStorage.setItem("hitl-decided", JSON.stringify(times));
  const row = { item: entry.item, id: answer.id, title: entry.title, verdict: entry.body.verdict, effect: null };
  lately.unshift(row);
  lately.splice(LATELY_MAX);
  drawLately();
  readBack(row);
}

function refused(entry, problem) {
  out.delete(entry.item);
  letGo(entry.item);
  say(`${VERDICTS[entry.body.verdict]}, and not taken: ${entry.title}. ${problem.message}. ${problem.todo}`, { kind: "bad", stays: true, action: { label: "Understood", run: () => {} } });
  refill();
}

/** Ask the console what a judgement did, a few times; the desk may be behind. */
async function readBack(row) {
  for (const wait of READ_BACK_MS) {
    await pause(wait);
    try {
      const found = await api("GET", `/items/${part(row.item)}`);
      row.effect = found.yours.find((one) => one.id === row.id) ?? null;
      if (row.effect) learn(row, found.lesson);
    } catch { /* it is asked once more */ }
    if (row.effect) break;
  }
  row.late = !row.effect;
  if (row.effect?.effect === "refused" || row.effect?.effect === "late") out.delete(row.item);
  drawLately();
}

/** What was planted is told once it was judged: a word of thanks, or what was missed. The next item is not touched. */
function learn(row, lesson) {
  if (!lesson || row.lesson) return;
  row.lesson = lesson;
  if (lesson.caught) { say("Well seen: this one was planted, to learn who looks. It could never have run.", { kind: "good" }); return; }
  say(`${VERDICTS[row.verdict]}, and it was planted: ${ERRORS[lesson.error] ?? "something plainly wrong"}. It never ran; what it was stands under “Decided just now”.`, { kind: "bad", stays: true, action: { label: "Understood", run: () => {} } });
}

function hour() {
  let times = [];
  try { times = JSON.parse(sessionStorage.getItem("hitl-decided") ?? "[]"); } catch { /* nobody else writes there */ }
  return times.filter((at) => at > Date.now() - HOUR_MS);
}

// --- what is asked before: a reason, a change, the amount ---

function choose_(what) {
  choosing = what;
  drawBar();
  bindKeys();
}

function ask(verdict) {
  if (!current) return;
  closeChange();
  choose_({ verdict });
  $(".reasons-title", bar).focus();
}

function give(code) {
  const note = $("#note")?.value.trim() || null;
  if (reasons.length === 0 && choosing.verdict === "reject" && note === null) {
    say("The policy lists no reasons: say why in a note.");
    $("#note").focus();
    return;
  }
  decide(choosing.verdict, { code, note });
}

function cancel() {
  closeChange();
  choose_(null);
  current?.node.querySelector(".card-title").focus({ preventScroll: true });
}

function change() {
  if (!current || choosing?.form) return;
  const one = current;
  const made = changeForm(one, reasons, { leave: cancel, send: (body) => overFloor(one, "change", () => { closeChange(); decide("change", body); }) });
  $(".card-body", one.node).before(made.form);
  choose_(made);
  made.focus();
}

function closeChange() {
  choosing?.form?.remove();
}

/** What the highest tier wants for an approval or a change: a sign-in of a moment ago. */
async function overFloor(one, verdict, then) {
  if (one.card.tier < 3) { then(); return; }
  try {
    const { fresh } = await api("GET", "/me");
    if (!fresh && !await freshen(verdict === "change" ? "A change of this tier" : "An approval of this tier")) return;
  } catch (error) {
    if (!error.passes) { say(error.message, { kind: "bad" }); return; }
  }
  if (current === one) then();
}

function approve() {
  const one = current;
  if (!one) return;
  if (one.card.tier < 3) { decide("approve"); return; }
  const wanted = confirmation(one.card);
  const typed = el("input", { id: "typed", autocomplete: "off", spellcheck: "false", required: true, "aria-describedby": "typed-wanted" });
  const send = el("button", { class: "main" }, "Approve");
  const wait = el("p", { class: "small faint", role: "status" });
  const form = el("form", { method: "dialog" }, el("h2", {}, "Approve what cannot be taken lightly"),
    el("p", {}, shown(headline(one.card))),
    el("p", { id: "typed-wanted" }, "Type ", shown(wanted.what), ": ", el("strong", { class: "mono" }, shown(wanted.text)), wanted.unit ? [" ", shown(wanted.unit)] : null),
    el("div", { class: "field" }, el("label", { for: "typed" }, "What will be there"), typed), wait,
    el("div", { class: "row" }, send, el("button", { type: "button", onclick: () => box.close() }, "Leave it")));
  const box = el("dialog", { "aria-label": "Approve" }, form);
  const look = () => {
    const leftMs = one.shownAt ? one.shownAt + one.card.floor_s * 1000 + FLOOR_SPARE_MS - Date.now() : FLOOR_SPARE_MS;
    send.disabled = leftMs > 0 || !confirms(typed.value, wanted.text);
    fill(wait, leftMs > 0 ? `Reading it takes at least ${one.card.floor_s} s; you can approve in ${Math.ceil(leftMs / 1000)} s.` : "");
  };
  const timer = setInterval(look, 250);
  typed.addEventListener("input", look);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (send.disabled || current !== one) return;
    box.close();
    overFloor(one, "approve", () => decide("approve"));
  });
  box.addEventListener("close", () => { clearInterval(timer); box.remove(); });
  document.body.append(box);
  look();
  box.showModal();
}

// --- keys and buttons ---

const NONE = Object.fromEntries(["a", "x", "c", "e", "n", "space", "Escape", ...Array.from({ length: CODES_BY_KEY }, (_, at) => String(at + 1)), "0"].map((key) => [key, null]));

function bindKeys() {
  keys(NONE);
  keys({ u: { label: "undo the last decision, while it rests", run: undo }, g: rest?.paused && !current ? { label: "go on without a break", run: goOn } : null });
  if (!current) return;
  if (choosing?.verdict) {
    codes().forEach(([code], at) => { if (at < CODES_BY_KEY) keys({ [at + 1]: { label: code ? `because: ${code.replaceAll("_", " ")}` : "without a reason", run: () => give(code) } }); });
    if (choosing.verdict === "escalate") keys({ 0: { label: "without a reason", run: () => give(null) } });
    keys({ n: { label: "write a note", run: () => $("#note").focus() }, Escape: { label: "leave it", run: cancel } });
    return;
  }
  if (choosing) { keys({ Escape: { label: "leave the change", run: cancel } }); return; }
  keys({
    a: { label: "approve", shift: current.card.tier >= 3, run: approve }, x: { label: "reject, then a reason 1–9", run: () => ask("reject") },
    c: { label: "change", run: change }, e: { label: "escalate, then a reason 1–9 or 0", run: () => ask("escalate") },
    space: { label: "skip: leave it to others for now", run: skip },
  });
}

/** The reasons to choose from: [code, label]. Where the policy has none, one stands for all. */
function codes() {
  if (reasons.length === 0) return [[null, choosing.verdict]];
  return reasons.map((known) => [known.code, known.code.replaceAll("_", " ")]);
}

const SHORTCUTS = { "Shift a": "Shift+A", space: "Space", Esc: "Escape" };

function button(label, key, run, { kind = "", disabled = false } = {}) {
  return el("button", { type: "button", class: kind, disabled, onclick: run, "aria-keyshortcuts": SHORTCUTS[key] ?? (key || null) }, label, key ? el("kbd", { "aria-hidden": "true" }, key) : null);
}

function drawBar() {
  bar.hidden = false;
  if (choosing?.verdict) { fill($("#actions"), reasonChoice()); return; }
  if (choosing?.form) { fill($("#actions"), el("div", { class: "row" }, choosing.buttons)); return; }
  const off = !current;
  const shift = current && current.card.tier >= 3;
  const anew = Boolean(current?.card.exception);
  fill($("#actions"), el("div", { class: "verdicts", role: "group", "aria-label": "Your decision" },
    button(anew ? "Approve anew" : "Approve", shift ? "Shift a" : "a", approve, { kind: "approve", disabled: off }),
    button("Reject", "x", () => ask("reject"), { kind: "reject", disabled: off }),
    button("Change", "c", change, { disabled: off }),
    button("Escalate", "e", () => ask("escalate"), { disabled: off })),
  el("div", { class: "row other" }, button("Skip", "space", skip, { kind: "plain", disabled: off })));
}

function reasonChoice() {
  const { verdict } = choosing;
  const note = el("input", { id: "note", maxlength: NOTE_LENGTH_MAX, autocomplete: "off", placeholder: "Note, if there is more to say" });
  note.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" && event.key !== "Enter" || event.isComposing) return;
    event.preventDefault();
    event.stopPropagation();
    $(".reasons-title", bar).focus();
  });
  return el("div", { class: "reasons", role: "group", "aria-label": `Why ${verdict}?` },
    el("strong", { class: "reasons-title", tabindex: "-1" }, `${verdict === "reject" ? "Reject" : "Escalate"}: why?`),
    el("div", { class: "row" }, codes().map(([code, label], at) => button(label, at < CODES_BY_KEY ? String(at + 1) : "", () => give(code))),
      verdict === "escalate" && reasons.length > 0 ? button("no reason", "0", () => give(null)) : null,
      button("Leave it", "Esc", cancel, { kind: "plain" })),
    el("div", { class: "row note-row" }, el("label", { for: "note" }, "Note ", el("kbd", {}, "n")), note));
}

// --- what rests and what was decided ---

let outTimer = null;

function drawOutbox() {
  if (!outbox) return;
  clearTimeout(outTimer);
  const resting = outbox.mine.filter((one) => outbox.rests(one));
  const waits = outbox.waiting;
  const line = $("#outbox");
  if (outbox.trouble && waits.length > 0) fill(line, stuck(waits));
  else if (resting.length > 0) {
    const last = resting.at(-1);
    fill(line, el("span", {}, el("strong", {}, VERDICTS[last.body.verdict]), ": ", shown(last.title), el("span", { class: "faint" }, ` · sent in ${Math.max(1, Math.ceil((last.due - Date.now()) / 1000))} s`, resting.length > 1 ? ` · ${resting.length} rest` : "")),
      el("button", { type: "button", class: "plain", onclick: undo, "aria-keyshortcuts": "u" }, "Undo", el("kbd", { "aria-hidden": "true" }, "u")));
  } else if (waits.length > 0) fill(line, el("span", { class: "faint" }, "Sending…"));
  else fill(line, outbox.others.length > 0 ? foreign() : el("span", { class: "faint" }, began ? "Everything you decided has been sent." : "A decision rests for three seconds before it is sent."));
  began = began || waits.length > 0;
  line.classList.toggle("bad", Boolean(outbox.trouble && waits.length > 0));
  if (resting.length > 0 || waits.length > 0) outTimer = setTimeout(drawOutbox, 250);
  drawHour();
}

function stuck(waits) {
  const { problem, atMs } = outbox.trouble;
  const many = waits.length === 1 ? "One decision waits" : `${waits.length} decisions wait`;
  const fresh = problem.type === "not_fresh";
  return [el("span", {}, el("strong", {}, `${many} to be sent: `), shown(problem.message), fresh ? "" : ` Tried again in ${Math.max(0, Math.ceil((atMs - Date.now()) / 1000))} s; nothing is lost while this tab is open.`),
    el("button", { type: "button", onclick: async () => { if (!fresh || await freshen("This decision")) outbox.now(); } }, fresh ? "Sign in again" : "Try now")];
}

function foreign() {
  const names = [...new Set(outbox.others.map((one) => one.by))].join(", ");
  return el("span", {}, `${outbox.others.length} decisions of `, shown(names), " wait in this tab; they are sent when ", shown(names), " signs in here.");
}

function drawHour() {
  const many = hour().length;
  fill($("#hour"), many > 0 ? `${many} decided this hour` : "");
}

function drawLately() {
  fill($("#lately"), lately.length === 0 ? [] : [el("h2", {}, "Decided just now"), el("ul", { class: "plain-list lately" }, lately.map((row) => {
    const did = row.effect ? effect(row.effect) : row.late ? { kind: "", text: "the desk has not read it yet" } : { kind: "", text: "on its way to the desk" };
    return el("li", {}, el("span", {}, el("strong", {}, VERDICTS[row.verdict]), " ", shown(row.title), row.lesson ? lesson(row.lesson) : null), el("span", { class: `tag ${did.kind}` }, shown(did.text)));
  }))]);
}

function lesson(one) {
  const error = ERRORS[one.error] ?? "something plainly wrong";
  return el("div", { class: "small lesson" }, el("p", {}, one.caught ? `Planted, and seen by you: ${error}.` : `Planted, and missed: ${error}. Look there next time:`), one.places.map((where) => el("p", {}, spot(where))));
}

function count(open) {
  fill($("#waits"), `${open} ${open === 1 ? "waits" : "wait"}`);
}

// --- as time goes by ---

function tick() {
  const line = current?.node.querySelector(".due");
  if (line) fill(line, due(current.card));
  drawHour();
  if (!away && Date.now() - touchedAt > AWAY_MS) goAway();
}

function due(card) {
  const times = [...card.deadlines.decide_by.filter((need) => need.given < need.people).map((need) => need.by), card.deadlines.expires_at].filter(Boolean);
  if (times.length === 0) return [];
  const first = times.reduce((best, time) => Date.parse(time) < Date.parse(best) ? time : best);
  const left = (Date.parse(first) - now()) / 1000;
  return [" · ", el("time", { datetime: first, title: first, class: left < SHORT_S ? "short" : "" }, left <= 0 ? "its time is over" : `${span(left)} left`)];
}

async function heartbeat() {
  if (away) return;
  for (const one of [current, ...ahead].filter(Boolean)) {
    try {
      await api("POST", `/items/${part(one.item)}/claim`);
    } catch (error) {
      if (error instanceof Problem && !error.passes && error.status !== 429) lost(one, error);
    }
  }
}

function touched() {
  touchedAt = Date.now();
}

/** Nobody has been here for long: the items go back to whoever looks for one. */
function goAway() {
  away = true;
  [current, ...ahead].filter(Boolean).forEach(giveBack);
  current = null;
  ahead = [];
  choosing = null;
  waiting("");
  const back = el("button", { type: "button", class: "main", onclick: () => { away = false; touched(); waiting("Asking for the next item…"); refill(); } }, "Go on");
  fill(place, el("section", { class: "panel empty" }, el("h2", {}, "Are you still there?"), el("p", {}, `Nothing was touched for ${AWAY_MS / 60_000} minutes, so that the items went back to the others.`), back));
  back.focus();
}

function leave() {
  for (const one of [current, ...ahead].filter(Boolean)) {
    request("DELETE", `/api/v1/items/${part(one.item)}/claim`, undefined, { keepalive: true }).catch(() => {});
  }
}
