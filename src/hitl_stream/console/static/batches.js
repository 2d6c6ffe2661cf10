// Batches: how far each is, what its sample says, and releasing one over the root of its actions.
//
// A release is signed for the card that was painted. Where the batch has changed meanwhile, what was typed is dropped, and
// the page says so.

import { $, Problem, ago, amount, api, el, fill, freshen, me, part, say, shown, svg, trouble } from "./hitl.js";
import { keepAsking, paintedSoon } from "./asking.js";
import { read } from "./card.js";
import { newId } from "./outbox.js";

const ASK_MS = 3000;
const WAITED_MS_MAX = 30_000; // after so long without the desk's answer the page says so

const STATES = {
  GATHERING: { tag: "", name: "Gathering", step: 0 },
  SAMPLING: { tag: "warn", name: "Sample being judged", step: 1 },
  READY: { tag: "good", name: "Ready for release", step: 2 },
  RELEASED: { tag: "good", name: "Released", step: 3 },
  FULL: { tag: "warn", name: "Full review", step: 3 },
  ENDED: { tag: "", name: "Ended, not released", step: 3 },
};
const STEPS = ["Gather", "Judge the sample", "Release"];
const ENDS = ["RELEASED", "FULL", "ENDED"];

const wanted = new URLSearchParams(location.search).get("batch");

// --- what a card means ---

export function many(count, one, more = `${one}s`) { return `${amount(count)} ${count === 1 ? one : more}`; }

/** The batch's own name, and where it belongs. */
export function nameOf(batch) {
  const [tenant, place, ...rest] = batch.split("/");
  return { tenant, place, name: rest.join("/") };
}

/** What of the sample, and of what was flagged, is not judged yet. Once the batch is over, nobody counts any more. */
export function waitingOf({ state, sample }) {
  if (state !== "SAMPLING") return { drawn: 0, flagged: 0 };
  const drawn = Math.max(0, Math.min(sample.waiting, sample.drawn - sample.good - sample.bad));
  return { drawn, flagged: Math.max(0, sample.waiting - drawn) };
}

export function failed({ state, sample }) { return state === "FULL" && sample.accept !== null && sample.bad > sample.accept; }

/** What a state means for this batch, in a sentence or two. */
export function meaning(card) {
  const { sample, size } = card;
  switch (card.state) {
    case "GATHERING": return `${card.seen} of ${many(card.wanted, "action")} have come. When all are here, or the time is over, a sample is drawn.`;
    case "SAMPLING": return `${many(size, "action")}, of which ${sample.drawn} were drawn. ${plan(sample)} When the sample and everything flagged are judged, the batch can be released.`;
    case "READY": return `The sample is within plan: ${sample.bad} of ${sample.drawn} bad, and ${many(sample.accept, "was", "were")} allowed. ${card.people > 1 ? `${card.people} people release` : "One person releases"} all that is left as a whole.`;
    case "RELEASED": return `${many(size, "action")} were released. What was found bad did not run.`;
    case "FULL": return full(card);
    default: return size === 0 ? "It had nothing left to release: everything was flagged, or gone." : "Nobody released it in time. Nothing of it that waited for the release ran.";
  }
}

function plan(sample) {
  return sample.accept === null ? "" : `At most ${sample.accept} of them may be bad.`;
}

function full(card) {
  const { sample, size } = card;
  if (failed(card)) return `The sample failed: ${sample.bad} bad, and at most ${sample.accept} allowed. So nothing is released as a whole: each of its actions is decided by itself, and what was found bad was rejected.`;
  if (sample.drawn >= size && size > 0) return `It is as small as its sample would be, so each of its ${many(size, "action")} is decided by itself.`;
  return "Something of it ended without being judged, so the sample says nothing any more: each of its actions is decided by itself.";
}

// --- drawing ---

function tag(state) {
  const known = STATES[state] ?? { tag: "warn", name: state };
  return el("span", { class: `tag ${known.tag}` }, shown(known.name));
}

function stateTag(card) { return failed(card) ? el("span", { class: "tag bad" }, "Sample failed, full review") : tag(card.state); }

/** The judged sample as a bar: good, bad, not judged yet. The same stands beside it in words. */
function bar({ sample }) {
  const all = Math.max(1, sample.drawn);
  const picture = svg("svg", { class: "sample", viewBox: `0 0 ${all} 1`, preserveAspectRatio: "none", "aria-hidden": "true" });
  let at = 0;
  for (const [kind, count] of [["good", sample.good], ["bad", sample.bad]]) {
    picture.append(svg("rect", { class: kind, x: at, y: 0, width: count, height: 1 }));
    at += count;
  }
  return picture;
}

function gathered(card) {
  return el("progress", { max: String(Math.max(1, card.wanted)), value: String(Math.min(card.seen, card.wanted)), "aria-label": `${card.seen} of ${card.wanted} have come` });
}

/** Whether a sample was judged, or is: what was reviewed whole from the start has none. */
function sampled(card) { return ["SAMPLING", "READY", "RELEASED"].includes(card.state) || failed(card); }

function overview(one) {
  const { card } = one;
  const { tenant, place, name } = nameOf(one.item);
  const waits = waitingOf(card);
  return el("li", { class: "panel batch" },
    el("div", { class: "row between" },
      el("h3", {}, el("a", { href: `/batches?batch=${part(one.item)}` }, shown(name))),
      stateTag(card)),
    el("p", { class: "small faint" }, shown(tenant), " / ", shown(place), " · ", shown(card.queue), " · opened ", ago(card.opened)),
    card.state === "GATHERING" ? gathered(card) : sampled(card) ? bar(card) : null,
    el("p", { class: "small" }, card.state === "GATHERING" ? `${card.seen} of ${card.wanted} have come` : counts(card, waits)));
}

function counts(card, waits) {
  const told = [many(card.size, "action")];
  if (sampled(card)) told.push(`${card.sample.good} good`, `${card.sample.bad} bad`);
  if (card.state === "SAMPLING") told.push(`${waits.drawn} of the sample and ${waits.flagged} flagged to judge`);
  return told.join(" · ");
}

function list(batches) {
  if (batches.length === 0) {
    return el("div", { class: "panel empty" }, el("h2", {}, "No batches"),
      el("p", {}, "Agents that make many things at once send them as a batch: a sample of it is judged, and one person releases the rest. None of your queues has one now."));
  }
  const open = batches.filter(({ card }) => !ENDS.includes(card.state));
  const over = batches.filter(({ card }) => ENDS.includes(card.state));
  const section = (title, rows, none) => el("section", {}, el("h2", {}, title), rows.length ? el("ul", { class: "grid batches" }, rows.map(overview)) : el("p", { class: "faint" }, none));
  return [section("Under way", open, "Nothing is under way."), over.length ? section("Over", over) : null];
}

// --- one batch ---

function steps(card) {
  const at = STATES[card.state]?.step ?? 0;
  const over = ENDS.includes(card.state);
  const mark = (index) => (index < at && !(over && card.state !== "RELEASED" && index === 2) ? "done" : index === at && !over ? "now" : "");
  return el("ol", { class: "steps", "aria-label": "How far it is" }, STEPS.map((name, index) =>
    el("li", { class: mark(index), "aria-current": mark(index) === "now" ? "step" : null }, name, mark(index) === "done" ? el("span", { class: "visually-hidden" }, " (done)") : null)));
}

function number(label, figure, kind = "", note = "") {
  return el("div", { class: `number ${kind}` }, el("dt", {}, label), el("dd", {}, el("span", { class: "big" }, String(figure)), note ? el("span", { class: "small faint" }, note) : null));
}

function sample(card) {
  const { sample: found } = card;
  const waits = waitingOf(card);
  if (card.state === "GATHERING") return el("section", { class: "panel" }, el("h2", {}, "Gathering"), gathered(card), el("dl", { class: "facts" }, el("dt", {}, "Here"), el("dd", {}, `${amount(card.seen)} of ${amount(card.wanted)}`), el("dt", {}, "Flagged"), el("dd", {}, `${card.flagged}, each decided by itself`), el("dt", {}, "Complete"), el("dd", {}, "when all are here, at the latest ", ago(card.close_at))));
  return el("section", { class: "panel" }, el("h2", {}, "The sample"), sampled(card) ? judgedSo(card, found, waits) : null,
    el("dl", { class: "facts" },
      el("dt", {}, "Flagged"), el("dd", {}, `${card.flagged}, each decided by itself`, card.state === "SAMPLING" ? `; ${waits.flagged} still to judge` : ""),
      card.beside > card.flagged ? [el("dt", {}, "Not in it"), el("dd", {}, `${card.beside - card.flagged} that came and ended before it was complete`)] : null,
      sampled(card) ? [el("dt", {}, "Drawn by"), el("dd", {}, "a keyed hash over the root: nobody could know which before the batch was complete")] : null),
    ["SAMPLING", "FULL"].includes(card.state) ? toReview(card, waits) : null);
}

function judgedSo(card, found, waits) {
  return [
    el("dl", { class: "numbers" },
      number("Drawn", found.drawn, "", `of ${amount(card.size)}`),
      number("Good", found.good, "good"),
      number("Bad", found.bad, found.accept !== null && found.bad > found.accept ? "bad" : "", found.accept === null ? "" : `${found.accept} allowed`),
      card.state === "FULL" ? null : number("To judge", waits.drawn, waits.drawn ? "warn" : "")),
    bar(card),
  ];
}

function toReview(card, waits) {
  const left = waits.drawn + waits.flagged;
  return el("p", { class: "row toreview" }, el("a", { class: "button main", href: `/review/${part(card.queue)}` }, "Review in ", shown(card.queue)),
    el("span", { class: "small faint" }, card.state === "FULL" ? "What of it is not decided yet waits there." : `${many(left, "item")} of it ${left === 1 ? "waits" : "wait"}`, waits.flagged ? "; flagged ones may wait in another queue" : ""));
}

function facts(one) {
  const { card } = one;
  const rows = [
    ["Queue", shown(card.queue)],
    card.decide_by.length && !ENDS.includes(card.state) ? ["Release by", card.decide_by.map((need) => ago(need.by))] : null,
    ["Runs until", ago(card.execute_by)],
    ["People needed", `${card.people}`],
    card.given.length ? ["Released by", shown(card.given.join(", "))] : null,
    ["Root", card.root ? el("code", { class: "root" }, card.root) : el("span", { class: "faint" }, "when it is complete")],
  ];
  const released = ["SAMPLING", "GATHERING", "READY", "RELEASED"].includes(card.state);
  return el("section", { class: "panel" }, el("h2", {}, released ? "What a release signs" : "The batch"),
    released && el("p", { class: "small faint" }, "The root stands for the bytes of every action in it. A release is signed over it, so that nothing can be put in or taken out afterwards."),
    el("dl", { class: "facts" }, rows.filter(Boolean).map(([name, ...what]) => [el("dt", {}, name), el("dd", {}, what)])));
}

function whole(one) {
  const { card } = one;
  const { tenant, place } = nameOf(one.item);
  return [
    el("p", { class: "row" }, el("a", { href: "/batches" }, "All batches"), el("span", { class: "faint" }, shown(tenant), " / ", shown(place)), stateTag(card)),
    steps(card),
    el("p", { class: `note ${failed(card) ? "bad" : card.state === "READY" ? "good" : ""}` }, meaning(card)),
    el("div", { class: "grid two" }, sample(card), facts(one)),
    el("div", { id: "release" }, release(one)),
  ];
}

// --- releasing ---

let receipt = null; // of the card that is on the page
let signed = null; // {view, at}: what was signed here, until the desk has read it

function release(one) {
  const { card } = one;
  if (signed && signed.view === one.view) return waitsForDesk();
  if (one.releasable) return form(one);
  if (ENDS.includes(card.state)) return [];
  return el("section", { class: "panel" }, el("h2", {}, "Release"), el("p", { class: "faint" }, "You cannot release it now: ", shown(one.why), "."));
}

function waitsForDesk() {
  const late = Date.now() - signed.at > WAITED_MS_MAX;
  return el("section", { class: "panel" }, el("h2", {}, "Release"), el("p", { class: late ? "note warn" : "note", role: "status" }, late
    ? "Your release stands on the log, and the desk has not read it yet. Nothing is lost; look whether hitl run desk is running."
    : "Your release is signed and stands on the log. The desk reads it now…"));
}

function form(one) {
  const { card } = one;
  const size = String(card.size);
  const typed = el("input", { id: "size", inputmode: "numeric", autocomplete: "off", "aria-describedby": "size-help" });
  const button = el("button", { class: "main", disabled: true }, `Release ${many(card.size, "action")}`);
  const wrong = el("div", {});
  const id = newId(); // the same however often it is sent: it counts once
  typed.addEventListener("input", () => { button.disabled = typed.value.trim() !== size; });
  const made = el("form", { class: "panel" },
    el("h2", {}, "Release"),
    el("p", {}, `${many(card.size, "action")} will run without anybody looking at each. What was found bad, and what was flagged, is not among them.`),
    el("div", { class: "field" }, el("label", { for: "size" }, `Type ${size} to release`), typed, el("p", { class: "small faint", id: "size-help" }, "It is signed in your name, over the root above.")),
    wrong, button);
  made.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (typed.value.trim() !== size || button.disabled) return;
    button.disabled = true;
    fill(wrong);
    try {
      if (!await send(one, id)) { button.disabled = false; return; }
      signed = { view: one.view, at: Date.now() };
      say(`Signed: ${many(card.size, "action")} released by you.`, { kind: "good" });
      fill($("#release"), waitsForDesk());
      now();
    } catch (error) {
      fill(wrong, trouble(error));
      button.disabled = false;
    }
  });
  return made;
}

/** Sign the release, after a sign-in of a moment ago; false: it was left. */
async function send(one, id) {
  const what = "The release of a batch";
  if (!(await me()).fresh && !await freshen(what)) return false;
  const painted = await (receipt ?? paint(one));
  const ask = () => api("POST", `/batches/${part(one.item)}/release`, { view: one.view, painted, id });
  try {
    await ask();
  } catch (error) {
    if (!(error instanceof Problem) || error.type !== "not_fresh") throw error;
    if (!await freshen(what)) return false;
    await ask();
  }
  return true;
}

function paint(one) {
  receipt = paintedSoon().then(() => api("POST", `/batches/${part(one.item)}/painted`, { view: one.view })).then((told) => told.receipt);
  receipt.catch(() => { receipt = null; }); // it is asked for again with the release
  return receipt;
}

// --- asking ---

let last = "";

async function load() {
  const told = await api("GET", "/batches");
  const found = wanted === null ? told.batches : told.batches.filter((one) => one.batch === wanted);
  const text = JSON.stringify(found.map(({ view, releasable, why }) => [view, releasable, why]));
  if (text === last) {
    if (signed && $("#release")) fill($("#release"), release(known));
    return;
  }
  const batches = await Promise.all(found.map(async (one) => ({ ...await read({ item: one.batch, card: one.card, view: one.view }), releasable: one.releasable, why: one.why })));
  if (wanted === null) fill($("#all"), list(batches));
  else show(batches[0]);
  last = text;
}

let known = null;

function show(one) {
  const typing = $("#size")?.value;
  known = one ?? null;
  if (!one) {
    fill($("#all"), el("div", { class: "panel empty" }, el("h2", {}, "There is no such batch in your queues"), el("p", {}, "It may be another tenant's, or past its retention."), el("p", {}, el("a", { href: "/batches" }, "All batches"))));
    return;
  }
  receipt = null;
  fill($("#all"), whole(one));
  if (typing) say("The batch has changed since you looked. Look at it again before you release it.", { kind: "bad" });
  if (one.releasable) paint(one);
}

if (wanted !== null) {
  const { name } = nameOf(wanted);
  fill($("#title"), "Batch ", shown(name || wanted));
  document.title = `Batch ${name || wanted} · hitl-stream`;
}
const now = keepAsking(load, ASK_MS);
