// Somebody's own figures: how much, how fast, and whether they see what was planted; until when they are qualified.
//
// What was judged in the last day counts whatever it was, so that no number betrays a planted item.

import { $, ago, api, el, fill, shown, svg, trouble } from "./hitl.js";
import { LEVELS, gauge, kindOf, many, percent } from "./figures.js";

const place = $("#all");

begin();

async function begin() {
  try {
    draw(await api("GET", "/me/figures"));
  } catch (error) {
    fill(place, trouble(error, begin));
  }
}

function draw(own) {
  fill(place,
    own.items === 0 ? el("p", { class: "note" }, "You have judged nothing in the last thirty days. What you judge is counted here.") : null,
    el("div", { class: "grid figures" }, level(own), pace(own), reading(own), planted(own)),
    qualifications(own.qualified));
}

function panel(title, ...children) {
  return el("section", { class: "panel" }, el("h2", {}, title), ...children);
}

function level(own) {
  if (!own.watched) return panel("How closely you are watched", el("p", { class: "faint" }, "Nobody knows just now: the monitor is not heard here. Its figures come back by themselves."));
  const [name, means] = LEVELS[own.level];
  return panel("How closely you are watched",
    el("p", { class: "level" }, el("span", { class: "big" }, name), el("span", { class: `tag ${own.level === 0 ? "good" : own.level === 1 ? "warn" : "bad"}` }, `Level ${own.level} of 3`)),
    el("p", {}, means),
    own.level > 0 ? el("p", {}, "It lasts until you pass a quiz: ", el("a", { href: "/quiz" }, "take the quiz"), ".") : el("p", { class: "small faint" }, "It never depends on how often you approve."));
}

// --- pace ---

function pace(own) {
  const total = own.days.reduce((sum, day) => sum + day.items, 0);
  return panel("The last seven days",
    week(own.days),
    el("ul", { class: "legend small faint" }, el("li", {}, key("yes"), "approved"), el("li", {}, key("all"), "everything else")),
    el("p", { class: "small" }, `${many(total, "item")} in a week.`, own.median_s === null ? null : ` Half of them took you ${own.median_s} s or less.`));
}

function key(name) {
  return svg("svg", { viewBox: "0 0 10 10", "aria-hidden": "true" }, svg("rect", { class: name, width: 10, height: 10, rx: 2 }));
}

function week(days) {
  const most = Math.max(1, ...days.map((day) => day.items));
  return el("ul", { class: "week" }, days.map((day) => {
    const name = new Date(`${day.day}T12:00:00Z`).toLocaleDateString("en-GB", { weekday: "short", timeZone: "UTC" });
    const high = (count) => (count / most) * 100;
    return el("li", {},
      svg("svg", { viewBox: "0 0 10 100", preserveAspectRatio: "none", "aria-hidden": "true" },
        svg("rect", { class: "all", x: 0, y: 100 - high(day.items), width: 10, height: high(day.items) }),
        svg("rect", { class: "yes", x: 0, y: 100 - high(day.approved), width: 10, height: high(day.approved) })),
      el("strong", {}, String(day.items)), el("span", { class: "small faint" }, name),
      el("span", { class: "visually-hidden" }, `: ${day.approved} of ${many(day.items, "item")} approved`));
  }));
}

// --- reading ---

function reading(own) {
  const tooFew = own.hurried === null;
  return panel("Reading before approving",
    el("p", { class: "big" }, percent(own.hurried)),
    gauge(own.hurried, { max: 0.5, marks: [own.hurried_warn], kind: kindOf(own.hurried ?? 0, [own.hurried_warn]) }),
    el("p", {}, tooFew ? `Too few approvals to tell: ${own.hurried_of} of at least ${own.hurried_needs}.`
      : `of your last ${many(own.hurried_of, "approval")} came before anybody could have read the item. More than ${percent(own.hurried_warn)} is noticed.`),
    el("p", { class: "small faint" }, own.approved === null ? "" : `You approved ${percent(own.approved)} of your last ${many(own.items, "item")}. That alone says nothing: agents may well be right.`));
}

function planted(own) {
  const { seen, caught } = own.canaries;
  return panel("Planted items",
    el("p", { class: "big" }, seen === 0 ? "None yet" : `${caught} of ${seen}`),
    seen === 0 ? null : gauge(caught / seen, { kind: "" }),
    el("p", {}, seen === 0 ? "Now and then an item is planted, with something plainly wrong in it, to see who still looks. It can never run." : "planted errors were seen by you in the last thirty days. Reject, change and escalate all count as seen."),
    el("p", { class: "small faint" }, "What you judged in the last day is not told yet, and counts above as any other item."));
}

// --- qualifications ---

function qualifications(rows) {
  if (rows.length === 0) return panel("What you are qualified for", el("p", {}, "Nothing: without it you are given no item. After a lesson an administrator qualifies you."));
  return panel("What you are qualified for",
    el("div", { class: "stacked" }, el("table", {},
      el("thead", {}, el("tr", {}, ["Kind of action", "Until", ""].map((name) => el("th", { scope: "col" }, name || el("span", { class: "visually-hidden" }, "Note"))))),
      el("tbody", {}, rows.map((row) => el("tr", {}, el("th", { scope: "row" }, shown(row.class)), el("td", { "data-name": "Until" }, ago(row.until)),
        el("td", { "data-name": "Note" }, row.holds ? row.soon ? el("span", { class: "tag warn" }, "ends soon") : el("span", { class: "tag good" }, "holds") : el("span", { class: "tag bad" }, "is over"))))))),
    el("p", {}, el("a", { class: "button", href: "/quiz" }, "Take a quiz to qualify anew")));
}
