// The form in which a person sets other values: only what can be set, with what that changes and what the policy says.

import { api, el, fill, part, shown, trouble } from "./hitl.js";
import { NUMBER, figure, legOf, place, textDiff } from "./card.js";
import { rule } from "./plain.js";

const FORM = "change-form";
const CHECK_MS = 250;
export const NOTE_LENGTH_MAX = 2000;
const TEXT = "/content/text";

/** Return the form for a card, and its buttons, which stand where the verdicts were. `told`: {send({changes, code, note}), leave()}. */
export function changeForm(one, reasons, told) {
  const { card } = one;
  const rows = Object.entries(card.can_change).map(([path, standing], at) => row(card, path, standing, at));
  const verdict = el("div", { class: "checked", role: "status" });
  const reason = el("select", { id: "change-reason", required: reasons.length > 0 }, el("option", { value: "" }, reasons.length > 0 ? "Choose a reason" : "The policy has none"),
    reasons.map((known) => el("option", { value: known.code }, known.code.replaceAll("_", " "))));
  const note = el("textarea", { id: "change-note", maxlength: NOTE_LENGTH_MAX, rows: "2" });
  const send = el("button", { class: "main", form: FORM }, "Send the change");
  const form = el("form", { id: FORM, class: "panel change-form", "aria-label": "Change this action" },
    el("h3", {}, "Change it"),
    rows.length === 0 ? el("p", {}, "Nothing of this action can be changed. Reject it, or escalate it.") : rows.map((each) => each.node),
    verdict,
    el("div", { class: "beside-each-other" },
      el("div", { class: "field" }, el("label", { for: "change-reason" }, "Why"), reason),
      el("div", { class: "field" }, el("label", { for: "change-note" }, reasons.length > 0 ? "Note, for who reads it later" : "Why, in words"), note))  );
  const changes = () => rows.filter((each) => each.changed()).map((each) => ({ path: each.path, value: each.read() }));
  const state = { fault: null };
  const ready = () => { send.disabled = changes().length === 0 || state.fault !== null || rows.some((each) => each.read() === undefined) || (reasons.length > 0 ? reason.value === "" : note.value.trim() === ""); };
  const check = checker(one, verdict, state, ready);
  form.addEventListener("input", () => { rows.forEach((each) => each.draw()); check(changes()); ready(); });
  form.addEventListener("keydown", (event) => { if (event.key === "Escape" && !event.isComposing) { event.preventDefault(); event.stopPropagation(); told.leave(); } });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (send.disabled) return;
    told.send({ changes: changes(), code: reason.value || null, note: note.value.trim() || null });
  });
  ready();
  const buttons = [send, el("button", { type: "button", onclick: told.leave, "aria-keyshortcuts": "Escape" }, "Leave it as it is", el("kbd", { "aria-hidden": "true" }, "Esc"))];
  return { form, buttons, focus: () => (form.querySelector("input, textarea, select") ?? form.querySelector("button")).focus() };
}

function named(card, path) {
  if (path === TEXT) return "Text";
  const leg = card.changes[Number(path.split("/")[2])];
  const about = place(leg.entity);
  return card.changes.length > 1 && about ? `${leg.field} of ${about}` : leg.field;
}

function row(card, path, standing, at) {
  const id = `change-${at}`;
  const long = typeof standing === "string" && !NUMBER.test(standing);
  const input = typeof standing === "boolean"
    ? el("select", { id }, ["true", "false"].map((word) => el("option", { value: word, selected: word === String(standing) }, word)))
    : long ? el("textarea", { id, rows: standing.length > 120 ? "6" : "2", dir: "auto" }) : el("input", { id, inputmode: "decimal", autocomplete: "off", spellcheck: "false" });
  if (typeof standing !== "boolean") input.value = String(standing);
  const diff = el("div", { class: "change-diff" });
  const leg = path === TEXT ? null : card.changes[Number(path.split("/")[2])];
  const each = {
    path,
    node: el("div", { class: "change-row" }, el("div", { class: "field" }, el("label", { for: id }, shown(named(card, path)), leg?.unit ? [" in ", shown(leg.unit)] : null), input), diff),
    changed: () => input.value !== String(standing),
    read: () => valueOf(input.value, standing),
    draw: () => fill(diff, each.changed() ? compared(leg, standing, each.read(), card) : el("p", { class: "small faint" }, "As the agent wants it.")),
  };
  each.draw();
  return each;
}

/** The value that was typed, of the kind of what stands there; undefined: it is of another kind. */
function valueOf(typed, standing) {
  if (typeof standing === "boolean") return typed === "true";
  const plain = typed.trim(); // no comma: 12,000 is twelve to some and twelve thousand to others
  if (typeof standing === "number") return NUMBER.test(plain) ? Number(plain) : undefined;
  return NUMBER.test(standing) ? (NUMBER.test(plain) ? plain : undefined) : typed;
}

function compared(leg, standing, wanted, card) {
  if (wanted === undefined) return el("p", { class: "note bad small" }, "Expected a number, such as ", el("code", {}, shown(String(standing))), ".");
  if (typeof wanted === "string" && !NUMBER.test(wanted)) return textDiff(String(standing), wanted);
  if (leg === null) return textDiff(String(standing), String(wanted));
  return [legOf({ ...leg, after: wanted, ...sizeOf(leg.before, wanted) }, card.limits), el("p", { class: "small faint" }, "The agent wanted ", figure(standing, leg.unit), ".")];
}

/** By how much, exactly, and in relation to what stood there. */
export function sizeOf(before, after) {
  const [one, other] = [String(before), String(after)];
  if (typeof before === "boolean" || before === null || !NUMBER.test(one) || !NUMBER.test(other)) return { delta: null, ratio: null };
  const places = Math.max(...[one, other].map((text) => (text.split(".")[1] ?? "").length));
  const scaled = (text) => { const [whole, rest = ""] = text.split("."); return BigInt(whole + rest.padEnd(places, "0")); };
  const delta = scaled(other) - scaled(one);
  const digits = String(delta < 0n ? -delta : delta).padStart(places + 1, "0");
  const text = places > 0 ? `${digits.slice(0, -places)}.${digits.slice(-places)}` : digits;
  const ratio = Number(one) === 0 ? null : ((Number(other) - Number(one)) / Math.abs(Number(one))).toFixed(4);
  return { delta: `${delta < 0n ? "-" : "+"}${text}`, ratio };
}

// --- what the policy says ---

function checker(one, place_, state, ready) {
  let timer = null;
  let number = 0;
  return (changes) => {
    clearTimeout(timer);
    const mine = ++number;
    if (changes.length === 0 || changes.some((each) => each.value === undefined)) { state.fault = null; fill(place_); return; }
    timer = setTimeout(async () => {
      let said;
      try {
        const found = await api("POST", `/items/${part(one.item)}/check`, { changes });
        said = { fault: found.fault, node: told(found) };
      } catch (error) {
        said = { fault: null, node: trouble(error) }; // the desk checks it once more
      }
      if (mine !== number) return;
      state.fault = said.fault;
      fill(place_, said.node);
      ready();
    }, CHECK_MS);
  };
}

function told(found) {
  if (found.fault !== null) return el("p", { class: "note bad" }, shown(found.fault));
  const why = found.reasons.length === 0 ? null : el("ul", { class: "small" }, found.reasons.map((row_) => el("li", {}, shown(rule(row_.rule)), " Found ", shown(row_.saw), row_.limit === null ? null : [", limit ", shown(row_.limit)])));
  if (found.outcome === "EXECUTE") return el("p", { class: "note good" }, "Inside the policy's limits, as far as can be told before: it runs as your action.");
  if (found.outcome === "REFUSE") return el("div", { class: "note bad" }, el("p", {}, "The policy would refuse it."), why);
  return el("div", { class: "note warn" }, el("p", {}, "Above what runs at once: another person is asked first, in ", shown([...new Set(found.queues)].join(", ") || "another queue"), "."), why);
}
