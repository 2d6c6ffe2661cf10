// The switches that are engaged, each as a card that stays where it is while what it says changes; and who is heard.

import { $, ago, el, fill, say, shown, span, words } from "./hitl.js";

const SHOWN_MAX = 200;

const STATES = {
  EFFECTIVE: ["good", "Effective"],
  CONTAINED: ["bad", "Contained"],
  "not proved": ["warn", "Not proved yet"],
  unknown: ["warn", "Nobody can tell"],
};
const MEANS = {
  EFFECTIVE: "Proved: nothing that was decided before it can leave any more.",
  CONTAINED: "Everything is stopped but calls of an executor that does not answer. Until its process is seen to have ended, they may still take effect.",
  "not proved": "It is on record, and whoever reads it obeys; not everybody has said so yet.",
  unknown: "No control role is heard, so nobody proves it. Without heartbeats every lease runs out: nothing is emitted from 2 s after the last one.",
};

/** "0.4 s", of milliseconds. */
export function took(ms) {
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}

/** Selectors, each as a word of its own; their values came from outside. */
export function scope(selectors) {
  const all = selectors.length ? selectors : ["everything"];
  return el("span", { class: "scope" }, all.map((one) => el("code", { class: "selector", dir: "auto" }, shown(one === "global:*" ? "everything" : one))));
}

export function modeTag(mode) {
  return el("span", { class: `tag mode ${mode === "HALT" ? "bad" : "warn"}` }, mode);
}

/** A line for a terminal, with a button that copies it. */
export function line(text) {
  const code = el("code", { class: "line" }, shown(text));
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      say("Copied.", { kind: "good" });
    } catch { // no clipboard without TLS, but on this machine
      getSelection().selectAllChildren(code);
      say("It is selected; copy it with Ctrl+C or Cmd+C.");
    }
  };
  return el("span", { class: "to-run" }, code, el("button", { type: "button", class: "plain", "aria-label": `Copy: ${text}`, onclick: copy }, "Copy"));
}

// --- switches ---

const cards = new Map(); // epoch → what is changed of its card

/** Show what is engaged; `told` is what GET /switches answers. */
export function showSwitches(told) {
  const place = $("#switches");
  const found = told.switches.slice(-SHOWN_MAX).reverse();
  const wanted = new Set(found.map((one) => one.epoch));
  for (const [epoch, card] of cards) if (!wanted.has(epoch)) { card.root.remove(); cards.delete(epoch); }
  if (found.length === 0) {
    if (place.dataset.empty !== "yes") {
      fill(place, el("div", { class: "panel nothing" }, el("p", {}, el("strong", {}, "Nothing is stopped.")), el("p", { class: "faint" }, "What agents propose is decided by the policy.")));
      place.dataset.empty = "yes";
    }
    return;
  }
  if (place.dataset.empty !== "no") { fill(place, el("ul", { class: "switches" })); place.dataset.empty = "no"; cards.clear(); }
  const list = $("ul", place);
  found.forEach((one, at) => {
    let card = cards.get(one.epoch);
    if (!card) { card = made(one); cards.set(one.epoch, card); }
    if (list.children[at] !== card.root) list.insertBefore(card.root, list.children[at] ?? null);
    renew(card, one, told);
  });
  const more = told.switches.length - found.length;
  let rest = $(".rest", place);
  if (more > 0 && !rest) { rest = el("p", { class: "rest faint" }); place.append(rest); }
  if (rest) fill(rest, more > 0 ? `… and ${more} older ones; hitl switches shows all.` : []);
}

function made(one) {
  const card = { state: el("span", { class: "state" }), why: el("div", { class: "why" }), steps: el("div", {}), release: null, last: "" };
  card.release = el("details", { class: "release" }, el("summary", {}, "Release it: two people, a minute apart"), card.steps);
  card.root = el("li", { class: `panel switch ${one.mode === "HALT" ? "halt" : ""}`, "data-epoch": one.epoch },
    el("div", { class: "head" }, el("h3", {}, modeTag(one.mode), " ", scope(one.scope)), card.state),
    card.why,
    el("dl", { class: "facts small" },
      el("dt", {}, "Engaged"), el("dd", {}, ago(one.at), " by ", shown(one.by), one.source === "person" ? null : [" (", shown(one.source), ")"]),
      el("dt", {}, "Why"), el("dd", {}, one.reason ? words(one.reason, "span") : "No reason was given."),
      el("dt", {}, "Epoch"), el("dd", {}, String(one.epoch))),
    card.release);
  return card;
}

function renew(card, one, told) {
  const requests = told.requests.filter((asked) => asked.epochs.includes(one.epoch));
  const contained = told.contained.filter((call) => call.epoch === one.epoch);
  const waiting = one.state === "not proved" ? told.waiting : [];
  const now = JSON.stringify([one.state, one.took_ms, requests, contained, waiting.map((who) => [who.instance, Math.round(who.since_s)]), requests.map(left)]);
  const time = $("time", card.root);
  if (time) time.textContent = ago(one.at).textContent;
  if (now === card.last) return;
  card.last = now;
  const [kind, label] = STATES[one.state] ?? STATES.unknown;
  fill(card.state, el("span", { class: `tag ${kind}` }, one.state === "EFFECTIVE" && one.took_ms !== null ? `Effective after ${took(one.took_ms)}` : label));
  fill(card.why, el("p", { class: "small faint" }, MEANS[one.state] ?? MEANS.unknown), waited(waiting), unproved(contained));
  if (document.activeElement && card.steps.contains(document.activeElement)) return; // whoever is about to copy
  fill(card.steps, steps(one, requests));
}

function waited(waiting) {
  return waiting.map((who) => el("p", { class: "small" }, "Waiting for ", el("strong", {}, shown(who.instance)), ` for ${span(who.since_s)}.`));
}

function unproved(contained) {
  return contained.map((call) => el("div", { class: "note bad small" },
    el("p", {}, el("strong", {}, shown(call.instance)), ` does not answer, with ${call.calls} ${call.calls === 1 ? "call" : "calls"} open at the platform. Look at that host; only when you have seen that its process has ended, run:`),
    line(`hitl farewell ${quoted(call.instance)} --reason "WHAT YOU SAW"`)));
}

/** For how many seconds a request cannot be confirmed yet; 0: it can. */
function left(asked) {
  return Math.max(0, Math.ceil((Date.parse(asked.not_before) - Date.now()) / 1000));
}

function steps(one, requests) {
  return [el("ol", { class: "steps" },
    el("li", {}, el("p", {}, "One holder of a releaser's key asks, and says why:"), line(`hitl release request ${one.epoch} --reason "WHY IT MAY GO ON"`)),
    el("li", {}, requests.length === 0
      ? [el("p", {}, "Nobody has asked so far. Then another holder confirms it, a minute later or more; the first command prints this line with its number:"), line("hitl release confirm NUMBER --wait")]
      : requests.map((asked) => [
        el("p", {}, el("strong", {}, shown(asked.by)), " has asked ", ago(asked.at), ": ", words(asked.reason, "span")),
        el("p", {}, left(asked) > 0 ? `In ${left(asked)} s another holder can confirm it, until ` : "Another holder can confirm it now, until ", el("time", { datetime: asked.not_after }, new Date(asked.not_after).toLocaleString()), ":"),
        line(`hitl release confirm ${asked.epoch} --wait`)]))),
  el("p", { class: "small faint" }, "Both run it where their own key lies. This console holds no key that releases anything.")];
}

/** A word as a shell takes it: quoted where it holds more than a name does. */
export function quoted(text) {
  return /^[A-Za-z0-9_./:@*-]+$/.test(text) && !text.includes("*") ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

// --- who is heard ---

const SILENT = "No control role is heard, so nobody proves that anything is effective. Without heartbeats every lease runs out: nothing is emitted from 2 s after the last one.";
let silent = null;

/** Shout where no heartbeat comes. */
export function showSilence(told) {
  const place = $("#silence");
  if (told.heard) { if (silent) { fill(place); silent = null; } return; }
  if (!silent) {
    silent = el("strong", { "aria-hidden": "true" });
    fill(place, el("div", { class: "note bad shout" },
      el("p", { role: "alert" }, el("strong", {}, "No heartbeat. "), SILENT), el("p", {}, silent), el("p", {}, "Start a control role: ", line("hitl run control"))));
  }
  fill(silent, `Silent for ${span(told.silent_s)}.`);
}

/** 0–2 5, of partitions. */
export function ranges(numbers) {
  const runs = [];
  for (const number of [...numbers].sort((a, b) => a - b)) {
    const last = runs.at(-1);
    if (last && number === last[1] + 1) last[1] = number;
    else runs.push([number, number]);
  }
  return runs.map(([from, to]) => (from === to ? `${from}` : `${from}–${to}`)).join(" ") || "none";
}

let drawn = "";

/** Show control roles and instances as a table; `told` is what GET /instances answers. */
export function showInstances(told) {
  const rows = [
    ...told.control.map((one) => ({ ...one, role: "control", holds: told.heard, partitions: null, calls: null, checked: true, version: "", open_epoch: null, at: "" })),
    ...told.instances.map((one) => ({ ...one, at: "", lease_left_ms: 0 })),
  ];
  const now = JSON.stringify([rows, told.epoch, told.held]);
  if (now === drawn) return;
  drawn = now;
  const cell = (label, ...content) => el("td", { "data-label": label }, content);
  const row = (one) => el("tr", {},
    el("th", { scope: "row", dir: "auto" }, shown(one.instance)),
    cell("Role", shown(one.role)),
    cell("Lease", el("span", { class: `tag ${one.holds ? "good" : "bad"}` }, one.role === "control" ? (one.holds ? "speaks" : "silent") : one.holds ? "holds" : "over")),
    cell("Epoch", one.epoch < told.epoch ? el("span", { class: "tag warn" }, `${one.epoch}, behind`) : String(one.epoch)),
    cell("Partitions", one.partitions === null ? "–" : ranges(one.partitions)),
    cell("Open work", one.open_epoch === null ? "–" : `since ${one.open_epoch}`),
    cell("Calls", one.calls === null ? "–" : String(one.calls)),
    cell("Version", one.version ? shown(one.version) : "–"),
    cell("Seal", one.checked ? "good" : "not checked"));
  const held = told.held === null ? null : el("p", {}, `In the last 15 minutes ${Math.round(told.held)} ${Math.round(told.held) === 1 ? "action was" : "actions were"} held back.`);
  fill($("#instances"), held,
    el("p", { class: "small faint" }, "Every instance says four times a second up to which command (epoch) it has obeyed. Without a lease it lets nothing out."),
    rows.length === 0
      ? el("p", {}, el("strong", {}, "Nobody is heard."), " Start the roles: ", line("hitl run control"), " and the others.")
      : el("div", { class: "scroll" }, el("table", { class: "who" },
        el("thead", {}, el("tr", {}, ["Instance", "Role", "Lease", "Epoch", "Partitions", "Open work", "Calls", "Version", "Seal"].map((title) => el("th", { scope: "col" }, title)))),
        el("tbody", {}, rows.map(row)))));
}
