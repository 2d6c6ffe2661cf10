// A button that is held: by mouse, finger, Space or Enter, for so long that nobody does it by mistake. Letting go, or
// leaving it, takes it back. Whoever cannot hold a key types a word instead (`typed`).

import { el, fill } from "./hitl.js";

export const HOLD_MS = 1000;

/** A button with `label` that runs `run` when it was held for a second. `may()` says whether it may begin. */
export function held(label, run, may = () => true) {
  const says = el("span", { class: "hold-label" }, label);
  const button = el("button", { type: "button", class: "danger hold", "aria-describedby": "hold-help" }, says);
  let timer = null;
  const begin = (event) => {
    if (timer !== null || button.disabled) return;
    event.preventDefault(); // no click, no scrolling, no menu of a long touch
    button.focus();
    if (!may()) return;
    button.classList.add("holding");
    fill(says, "Keep holding…");
    timer = setTimeout(() => { end(); run(); }, HOLD_MS);
  };
  const end = () => {
    if (timer === null) return;
    clearTimeout(timer);
    timer = null;
    button.classList.remove("holding");
    fill(says, label);
  };
  const isKey = (event) => event.key === " " || event.key === "Enter";
  button.addEventListener("pointerdown", (event) => { if (event.button === 0) begin(event); });
  for (const over of ["pointerup", "pointerleave", "pointercancel", "blur"]) button.addEventListener(over, end);
  button.addEventListener("keydown", (event) => {
    if (!isKey(event)) { end(); return; }
    event.preventDefault();
    if (!event.repeat && !event.ctrlKey && !event.altKey && !event.metaKey) begin(event);
  });
  button.addEventListener("keyup", (event) => { if (isKey(event)) { event.preventDefault(); end(); } });
  button.addEventListener("click", (event) => event.preventDefault());
  button.addEventListener("contextmenu", (event) => event.preventDefault());
  return button;
}

export const WORD = "STOP";

/** A field in which the word is typed, for who cannot hold a button. */
export function typed(run, may = () => true) {
  const field = el("input", { id: "typed", autocomplete: "off", autocapitalize: "characters", spellcheck: "false" });
  const button = el("button", { class: "danger", disabled: true }, "Stop");
  field.addEventListener("input", () => { button.disabled = field.value.trim().toUpperCase() !== WORD; });
  const form = el("form", { class: "typed" },
    el("label", { for: "typed" }, "Cannot hold a button? Type ", el("kbd", {}, WORD)),
    el("div", { class: "row" }, field, button));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (button.disabled || !may()) return;
    field.value = "";
    button.disabled = true;
    run();
  });
  return form;
}
