// Which queues there are, how full they are, and which of them are yours to decide in.

import { $, ago, api, el, fill, me, money, part, shown, trouble } from "./hitl.js";
import { onState } from "./events.js";
import { keys } from "./keys.js";

const place = $("#all");
let who = null;
let drawn = "";

begin();

async function begin() {
  try {
    who = await me();
    const { queues } = await api("GET", "/queues");
    draw(queues);
    onState((state) => { if (state?.queues) draw(state.queues); });
  } catch (error) {
    fill(place, trouble(error, begin));
  }
}

function draw(queues) {
  const text = JSON.stringify(queues);
  if (text === drawn) return;
  drawn = text;
  const focused = document.activeElement?.dataset?.queue;
  const mine = queues.filter((one) => one.yours && who.scopes.includes("items:decide"));
  const others = queues.filter((one) => !mine.includes(one));
  fill(place,
    mine.length > 0 ? el("div", { class: "grid queues" }, mine.map(yours)) : el("div", { class: "panel empty" }, el("h2", {}, "You may look only"),
      el("p", {}, "Your account decides in no queue. An administrator gives it a role: ", el("code", {}, `hitl user role ${who.name} --add ROLE`))),
    others.length > 0 ? [el("h2", { class: "others-title" }, mine.length > 0 ? "Other people's queues" : "The queues"), table(others)] : null);
  if (focused) [...place.querySelectorAll("[data-queue]")].find((link) => link.dataset.queue === focused)?.focus();
}

function yours(one) {
  return el("a", { class: "panel queue", href: `/review/${part(one.queue)}`, "data-queue": one.queue },
    el("h2", {}, shown(one.queue), one.external ? [" ", el("span", { class: "tag" }, "Clients")] : null),
    el("p", { class: "big" }, String(one.open), el("span", { class: "queue-word" }, one.open === 1 ? " item waits" : " items wait")),
    el("p", { class: "small faint" }, one.open > 0 ? ["The oldest came ", ago(one.oldest)] : "What comes is shown by itself."),
    el("p", { class: "small" }, stake(one.money)));
}

function stake(found) {
  const sums = money(found);
  return sums.length > 0 ? shown(`${sums.join(", ")} at stake`) : "\u00a0"; // as high with money as without
}

function table(queues) {
  return el("div", { class: "panel scrolls", tabindex: "0", role: "group", "aria-label": "Other queues" }, el("table", {},
    el("thead", {}, el("tr", {}, ["Queue", "Waiting", "The oldest came", "At stake"].map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", {}, queues.map((one) => el("tr", {}, el("td", {}, shown(one.queue), one.external ? [" ", el("span", { class: "tag" }, "Clients")] : null), el("td", {}, String(one.open)), el("td", {}, one.open > 0 ? ago(one.oldest) : "–"), el("td", {}, shown(money(one.money).join(", ") || "–")))))));
}

function move(by) {
  const links = [...place.querySelectorAll("[data-queue]")];
  if (links.length === 0) return;
  const at = links.indexOf(document.activeElement);
  links[Math.min(Math.max(at + by, 0), links.length - 1)].focus();
}

keys({ j: { label: "the next queue", run: () => move(1) }, k: { label: "the queue before", run: () => move(-1) } });
