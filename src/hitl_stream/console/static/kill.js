// Kill switches: stopping something in one step, and what is stopped by now.
//
// A link prefills the form (`?scope=campaign:cmp-204&mode=HALT`) and does nothing else: only a button that is held, or a
// word that is typed, engages.

import { $, api, el, fill, me, shown, trouble } from "./hitl.js";
import { onState } from "./events.js";
import { held, typed } from "./hold.js";
import { line, quoted, scope as scopeOf, showInstances, showSilence, showSwitches, took } from "./switches.js";

const LOOK_MS = 1000;
const LIKE_MS = 150; // after the last letter, before names are asked for
const SELECTORS_MAX = 100;
const REASON_MAX = 1000;
const EVERYTHING = "global:*";
const KINDS = [
  ["campaign", "Campaign"], ["account", "Account"], ["tenant", "Tenant"], ["agent", "Agent"], ["agent-version", "Agent version"],
  ["type", "Action type"], ["destination", "Destination"], ["global", "Everything"],
];
const MODES = [
  ["HALT", "Nothing in scope runs, whoever approved it. What comes is parked, and decided anew after the release."],
  ["REVIEW_ALL", "Nothing in scope runs by itself any more: people are asked about each action."],
  ["REDUCE_ONLY", "Only what lowers a bid or a budget, or pauses, still runs. Everything else in scope is parked."],
];

let who;
let chosen = [];
let mode = "HALT";
let busy = false;
let latest = null; // {epoch, scope, mode}: what was engaged here, until it is proved

// --- what a link says ---

function prefill() {
  const asked = new URLSearchParams(location.search);
  chosen = [...new Set(asked.getAll("scope").flatMap((one) => one.split(/\s*,\s*/)).filter(Boolean))].slice(0, SELECTORS_MAX);
  if (MODES.some(([name]) => name === asked.get("mode"))) mode = asked.get("mode");
  return chosen.length > 0 || asked.has("mode");
}

// --- the form ---

const kind = el("select", { id: "kind" }, KINDS.map(([name, label]) => el("option", { value: name }, label)));
const named = el("input", { id: "named", list: "names", autocomplete: "off", autocapitalize: "none", spellcheck: "false" });
const names = el("datalist", { id: "names" });
const chips = el("ul", { class: "chips", "aria-label": "Scope" });
const reason = el("input", { id: "reason", maxlength: REASON_MAX, autocomplete: "off" });
const summary = el("p", { class: "summary" });
const wrong = el("div", { id: "wrong" });
const typedName = el("div", { class: "named" });

/** The selectors so far, with what is still being typed. */
function selectors() {
  const text = named.value.trim();
  const typing = kind.value === "global" ? EVERYTHING : text ? `${kind.value}:${text}` : "";
  return [...new Set([...chosen, ...(typing ? [typing] : [])])];
}

function add() {
  const all = selectors();
  if (all.length > SELECTORS_MAX) { fill(wrong, el("p", { class: "note bad", role: "alert" }, `A scope has at most ${SELECTORS_MAX} parts; engage another switch for the rest.`)); return; }
  chosen = all;
  named.value = "";
  if (kind.value === "global") kind.value = "campaign";
  changed();
  named.focus();
}

function remove(one) {
  chosen = chosen.filter((other) => other !== one);
  changed();
  named.focus();
}

function changed() {
  named.disabled = kind.value === "global";
  typedName.hidden = kind.value === "global";
  fill(chips, chosen.map((one) => el("li", { class: "chip" }, el("code", { dir: "auto" }, shown(one === EVERYTHING ? "everything" : one)),
    el("button", { type: "button", class: "plain", "aria-label": `Take out ${one}`, onclick: () => remove(one) }, "×"))));
  chips.hidden = chosen.length === 0;
  told();
}

function told() {
  const all = selectors();
  fill(summary, all.length === 0
    ? el("span", { class: "faint" }, "Say what to stop.")
    : [el("strong", {}, mode), " for ", scopeOf(all), all.includes(EVERYTHING) && all.length === 1 ? el("strong", {}, " – everything, of every tenant.") : null]);
}

let asking = 0;
async function complete() {
  const mine = ++asking;
  const wanted = kind.value;
  if (wanted === "global") return;
  await new Promise((resolve) => setTimeout(resolve, LIKE_MS));
  if (mine !== asking) return;
  try {
    const { scopes } = await api("GET", `/scopes?like=${encodeURIComponent(named.value.trim().slice(0, 200))}`);
    if (mine === asking) fill(names, (scopes[wanted] ?? []).map((one) => el("option", { value: one })));
  } catch { /* names only help; whoever knows the name types it */ }
}

function may() {
  if (busy) return false;
  const all = selectors();
  if (all.length > 0) { fill(wrong); return true; }
  fill(wrong, el("p", { class: "note bad", role: "alert" }, "Nothing is named yet. Choose what to stop, or “Everything”."));
  (kind.value === "global" ? kind : named).focus();
  return false;
}

async function engage() {
  const scope = selectors();
  const why = reason.value.trim();
  const asked = { scope, mode, ...(why ? { reason: why } : {}) };
  busy = true;
  hold.disabled = true;
  fill(wrong, el("p", { class: "note", role: "status" }, "Stopping…"));
  try {
    const { epoch } = await api("POST", "/switches", asked);
    latest = { epoch, scope, mode };
    fill(wrong);
    reset();
    report(null);
    await look();
    $("#done").focus();
  } catch (error) {
    fill(wrong, trouble(error), el("p", { class: "small" }, "From a terminal, with your own key:"),
      line(`hitl kill ${scope.map((one) => `--scope ${quoted(one)}`).join(" ")} --mode ${mode}`));
  } finally {
    busy = false;
    hold.disabled = false;
  }
}

function reset() {
  chosen = owned();
  named.value = "";
  reason.value = "";
  if (kind.value === "global") kind.value = "campaign";
  history.replaceState(null, "", "/kill"); // a reload does not prefill what was done
  $("#prefilled")?.remove();
  changed();
}

/** Whoever is of some tenants only names them in every scope. */
function owned() {
  return who.tenants === null ? [] : who.tenants.map((one) => `tenant:${one}`);
}

const hold = held("Hold to stop", engage, may);

function form(prefilled) {
  const radio = ([name, text]) => {
    const input = el("input", { type: "radio", name: "mode", id: `mode-${name}`, value: name, "aria-describedby": `means-${name}`, checked: name === mode });
    input.addEventListener("change", () => { mode = name; told(); });
    return el("div", { class: "mode" }, input, el("div", {}, el("label", { for: `mode-${name}` }, name), el("p", { class: "small faint", id: `means-${name}` }, text)));
  };
  kind.addEventListener("change", () => { fill(names); changed(); complete(); });
  named.addEventListener("input", () => { told(); complete(); });
  named.addEventListener("focus", complete, { once: true });
  named.addEventListener("keydown", (event) => { if (event.key === "Enter" && !event.isComposing) { event.preventDefault(); if (named.value.trim()) add(); } });
  typedName.append(el("label", { for: "named" }, "Name"), named, names);
  if (who.tenants !== null && !chosen.some((one) => one.startsWith("tenant:"))) chosen.push(...owned());
  fill($("#form"),
    prefilled ? el("p", { class: "note warn", id: "prefilled" }, "A link has filled this in. Nothing is stopped yet: look whether it is what you want.") : null,
    el("fieldset", {}, el("legend", {}, "What"),
      chips,
      el("div", { class: "pick" }, el("div", {}, el("label", { for: "kind" }, "Kind"), kind), typedName,
        el("button", { type: "button", onclick: add }, "And also…")),
      el("p", { class: "small faint" }, "The same kind twice means either; different kinds mean both.",
        who.tenants === null ? null : " You stop what is of your own tenants.")),
    el("fieldset", {}, el("legend", {}, "How"), MODES.map(radio)),
    el("div", { class: "field" }, el("label", { for: "reason" }, "Why ", el("span", { class: "faint plain-weight" }, "(can be left out)")), reason),
    summary, wrong, hold,
    el("p", { class: "small faint", id: "hold-help" }, "One second, with the mouse, a finger, Space or Enter. It holds until two people release it."),
    typed(engage, may));
  $("#stop").hidden = false;
  $(".kill").classList.add("two");
  changed();
}

// --- what is stopped ---

/** Say what became of the switch that was engaged here. */
function report(state) {
  if (!latest) return;
  const found = state?.switches.find((one) => one.epoch === latest.epoch);
  const how = found?.state === "EFFECTIVE"
    ? (found.took_ms === null ? "It is effective." : `Effective after ${took(found.took_ms)}.`)
    : found?.state === "CONTAINED" ? "Contained: an executor does not answer." : "On record; waiting for the proof…";
  const good = found?.state === "EFFECTIVE";
  const text = `${latest.epoch}${how}`;
  if ($("#done").dataset.text === text) return;
  $("#done").dataset.text = text;
  fill($("#done"), el("div", { class: `note ${good ? "good" : "warn"}`, role: "status" }, el("p", {}, el("strong", {}, `${latest.mode} is engaged`), " for ", scopeOf(latest.scope), ". ", how)));
}

let looking = null;
let heardInstances = true;

/** Ask how things stand; one question at a time. */
function look() {
  looking ??= asked().finally(() => { looking = null; });
  return looking;
}

async function asked() {
  try {
    const [switches, instances] = await Promise.all([
      api("GET", "/switches"),
      heardInstances ? api("GET", "/instances").catch(refused) : null,
    ]);
    fill($("#away"));
    report(switches);
    showSwitches(switches);
    showSilence({ heard: switches.heard, silent_s: instances?.silent_s ?? 0 });
    $("#who").hidden = !instances;
    if (instances) showInstances(instances);
  } catch (error) {
    fill($("#away"), trouble(error, look));
    const waiting = $("#switches .loading");
    if (waiting) waiting.remove();
  }
}

/** Who decides for a client only is not shown who runs; the rest of the page goes on. */
function refused(error) {
  if (error.status !== 403) throw error;
  heardInstances = false;
  return null;
}

async function begin() {
  try {
    who = await me();
  } catch (error) {
    fill($("#switches"), trouble(error, () => location.reload()));
    return;
  }
  const prefilled = prefill();
  if (who.scopes.includes("switches:engage")) form(prefilled);
  else {
    $("#stop").hidden = false;
    $(".kill").classList.add("two");
    fill($("#form"), el("p", {}, "You see what is stopped. To stop something takes the role ", el("strong", {}, "kill-operator"), "; an administrator gives it:"), line(`hitl user role ${quoted(who.name)} --add kill-operator`));
  }
  let seen = "";
  onState((state) => {
    const now = state ? JSON.stringify([state.epoch, state.effective, state.heard, state.switches]) : "";
    if (now !== seen) { seen = now; look(); }
  });
  const again = async () => {
    if (!document.hidden) await look();
    setTimeout(again, LOOK_MS);
  };
  again();
}

begin();
