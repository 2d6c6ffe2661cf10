// Keys of a page: shown on its buttons and in a legend, dead in text fields and with modifiers.

import { $, el } from "./hitl.js";

const bound = new Map();

/** Bind keys: keys({a: {label: "approve", run}}). `shift: true` wants Shift with it; null takes a key away. */
export function keys(table) {
  for (const [key, one] of Object.entries(table)) {
    if (one === null) bound.delete(key);
    else bound.set(key, one);
  }
}

const TYPING = "input:not([type=checkbox]):not([type=radio]), textarea, select, [contenteditable]";

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing || event.repeat) return;
  if (event.target.closest?.(TYPING)) return;
  const dialog = $("dialog[open]");
  if (dialog && !dialog.dataset.keys) return;
  if (event.key === "?") { event.preventDefault(); legend(); return; }
  const name = event.key === " " ? "space" : event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const one = bound.get(name);
  if (!one) return;
  if (Boolean(one.shift) !== event.shiftKey && /^[a-z]$/.test(name)) return;
  // Space on a button presses it; a key of ours does not.
  if (name === "space" && event.target.closest("button, a, summary, [role=button]")) return;
  event.preventDefault();
  one.run(event);
});

/** Show what the keys do. */
export function legend() {
  const rows = [...bound].filter(([, one]) => one.label).map(([key, one]) =>
    el("tr", {}, el("td", {}, el("kbd", {}, one.shift ? `Shift ${key.toUpperCase()}` : key)), el("td", {}, one.label)));
  const box = el("dialog", { "aria-label": "Keys" }, el("h2", {}, "Keys"),
    el("table", {}, el("tbody", {}, rows, el("tr", {}, el("td", {}, el("kbd", {}, "?")), el("td", {}, "this legend")))),
    el("p", { class: "small faint" }, "They do nothing while you type, and nothing with Ctrl, Alt or Cmd."),
    el("form", { method: "dialog" }, el("button", { class: "main" }, "Close")));
  box.addEventListener("close", () => box.remove());
  document.body.append(box);
  box.showModal();
}
