// The quiz: forty old actions, half of them spoilt. The same card as in review; two answers; the result at the end.
//
// What is right is known to the console only. A question counts by its first answer, so that a reload, or a second tab,
// goes on where the quiz stands.

import { $, Problem, ago, api, el, fill, part, shown, trouble } from "./hitl.js";
import { draw, place, read } from "./card.js";
import { ERRORS, many, spot } from "./figures.js";
import { keys } from "./keys.js";

const all = $("#all");
let state = null; // the question that is asked: {class, quiz, at, of, card, view}
let busy = false;

overview();

// --- which ---

async function overview() {
  ended();
  try {
    const told = await api("GET", "/quiz");
    fill(all, told.classes.length === 0 ? none() : [about(told), el("div", { class: "grid figures" }, told.classes.map(one))]);
  } catch (error) {
    fill(all, trouble(error, overview));
  }
}

function none() {
  return el("section", { class: "panel empty" }, el("h2", {}, "There is no quiz for you"), el("p", {}, "A quiz qualifies anew whoever was qualified for a kind of action once. The first time an administrator does so, after a lesson."));
}

function about(told) {
  return el("p", { class: "lead" }, `${told.of} old actions are shown to you, and half of them have something plainly wrong in them. Say which may run. Whoever is right ${told.passes} times is qualified for ninety days more, and is watched no longer. Nothing that you say here runs, or stops.`);
}

function one(row) {
  const tooFew = row.known < row.needed && row.answered === null;
  const label = row.answered === null ? "Begin" : `Go on with question ${Math.min(row.answered + 1, row.needed)}`;
  return el("section", { class: "panel" }, el("h2", {}, shown(row.class)),
    el("p", {}, row.holds ? ["Your qualification ends ", ago(row.until), "."] : ["Your qualification ended ", ago(row.until), "."]),
    tooFew ? el("p", { class: "note" }, `There are too few old actions to make a quiz of: ${row.known}, and it takes ${row.needed}. An administrator can qualify you meanwhile.`)
      : row.again_at ? el("p", { class: "note warn" }, "The last one was not passed. You can try again ", ago(row.again_at), ".")
        : el("button", { type: "button", class: "main", onclick: () => begin(row.class) }, label, el("span", { class: "visually-hidden" }, " the quiz of ", shown(row.class))));
}

// --- taking it ---

async function begin(name) {
  try {
    await take(await api("POST", `/quiz/${part(name)}`));
  } catch (error) {
    wrong(error, overview);
  }
}

async function answer(approve) {
  if (busy || !state) return;
  busy = true;
  const body = { quiz: state.quiz, at: state.at, approve };
  try {
    await take(await api("POST", `/quiz/${part(state.class)}/answer`, body));
    fill($("#announce"), approve ? "Approved." : "Not approved.");
  } catch (error) {
    const again = error instanceof Problem && error.passes ? () => begin(state.class) : overview;
    wrong(error, again);
  } finally {
    busy = false;
  }
}

function wrong(error, again) {
  $("#bar").hidden = true;
  fill(all, trouble(error, again));
}

async function take(found) {
  if (found.state !== "open") { result(found); return; }
  state = found;
  const card = draw(await read({ item: String(found.at), view: found.view, card: found.card }));
  fill($("#where"), `Question ${found.at + 1} of ${found.of}`);
  fill(all, card);
  buttons();
  scrollTo(0, 0);
  card.querySelector(".card-title").focus({ preventScroll: true });
}

function buttons() {
  $("#bar").hidden = false;
  const button = (label, key, kind, approve) => el("button", { type: "button", class: kind, "aria-keyshortcuts": key, onclick: () => answer(approve) }, label, el("kbd", { "aria-hidden": "true" }, key));
  fill($("#actions"), el("div", { class: "answer", role: "group", "aria-label": "Your answer" }, button("Approve", "a", "approve", true), button("Do not approve", "x", "reject", false)));
  keys({ a: { label: "approve", run: () => answer(true) }, x: { label: "do not approve", run: () => answer(false) } });
}

function ended() {
  state = null;
  $("#bar").hidden = true;
  fill($("#where"));
  keys({ a: null, x: null });
}

// --- the result ---

function result(found) {
  ended();
  const passed = found.state === "passed";
  const title = el("h2", { tabindex: "-1" }, passed ? "Passed" : "Not passed");
  fill(all, el("section", { class: "panel" }, title,
    el("p", { class: "big" }, `${found.right} of ${found.of} right`),
    passed ? el("p", {}, "Your qualification for ", el("strong", {}, shown(found.class)), " now ends ", ago(found.until), ".")
      : el("p", {}, `It takes ${found.needed}. Read what you missed, and try again `, ago(found.again_at), ". Until then everything is as it was."),
    el("div", { class: "row" }, el("button", { type: "button", onclick: overview }, "All quizzes"), el("a", { class: "button", href: "/review" }, "Review"))),
  found.missed.length === 0 ? null : el("section", { class: "panel" }, el("h2", {}, `What you missed: ${many(found.missed.length, "question")}`), el("ol", { class: "missed-list" }, found.missed.map(missed))));
  title.focus();
}

function missed(one) {
  return el("li", {}, el("p", {}, el("strong", {}, `Question ${one.at + 1}`), " · ", shown(one.type), place(one.entity) ? [" · ", shown(place(one.entity))] : null),
    one.wrong ? [el("p", {}, `You approved ${ERRORS[one.wrong.error] ?? "an error"}.`), one.wrong.places.map((where) => el("p", {}, spot(where)))]
      : el("p", {}, "You did not approve it, and nothing was wrong with it: other people had approved it as it was."));
}
