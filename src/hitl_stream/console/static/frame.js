// What stands around every page: who is signed in, what is stopped, whether the page is up to date, how much waits.

import { $, ago, el, fill, me, request, say, shown, span, toSignIn } from "./hitl.js";
import { listen, onState } from "./events.js";

const STALE_S = 10;
const SHOWN_MAX = 3;
const outside = ["sign-in", "link"].includes(document.body.dataset.page);

function whose(who) {
  const out = async () => {
    try {
      await request("DELETE", "/session");
      location.assign("/sign-in");
    } catch (error) {
      say(error.message, { kind: "bad" });
    }
  };
  const own = who.scopes.includes("items:decide") ? el("a", { href: "/me", title: "Your figures" }, shown(who.name)) : el("span", {}, shown(who.name));
  fill($("#whose"), own, el("button", { type: "button", class: "plain", onclick: out }, "Sign out"));
  const may = { review: "items:decide", batches: "queues:read", pairs: "pairs:judge", exceptions: "queues:read", audit: "actions:read", kill: "switches:read" };
  for (const [name, scope] of Object.entries(may)) {
    const link = $(`nav .to-${name}`);
    if (link && !who.scopes.includes(scope)) link.closest("li").hidden = true;
  }
  if (!who.roles.includes("labeller")) { const link = $("nav .to-pairs"); if (link) link.closest("li").hidden = true; }
}

/** What is stopped, on every page. */
function banner(state) {
  const engaged = state.switches;
  const one = (found) => el("span", {}, el("strong", {}, found.mode), " ", shown(found.scope.join(" ")), " by ", shown(found.by), found.reason ? [": ", shown(found.reason)] : null, " ", ago(found.at), found.effective ? " · effective" : " · taking effect");
  const found = engaged.slice(-SHOWN_MAX).reverse();
  const more = engaged.length - found.length;
  const text = JSON.stringify(found) + more;
  if ($("#banner").dataset.shown === text) return;
  $("#banner").dataset.shown = text;
  fill($("#banner"), engaged.length === 0 ? [] : el("p", { class: "bar bad" }, "Stopped: ", found.map(one), more > 0 ? `and ${more} more` : null, el("a", { href: "/kill" }, "Kill switches")));
}

function trouble(state, lost) {
  const told = [];
  if (lost) told.push("This page is not told any more how things stand; it tries to come back. What you see may be old.");
  else if (state.missing) told.push(`Nothing can be decided now: ${state.missing}.`);
  if (!lost && state.view) told.push(`The queues cannot be read: ${state.view}.`);
  else if (!lost && state.stale_s === null) told.push("The console has not read the queues yet.");
  else if (!lost && state.stale_s > STALE_S) told.push(`What you see is ${span(state.stale_s)} old: the console is behind.`);
  const text = told.join(" ");
  if ($("#trouble").dataset.shown === text) return;
  $("#trouble").dataset.shown = text;
  fill($("#trouble"), text ? el("p", { class: "bar warn" }, shown(text)) : []);
}

function counts(state) {
  const yours = (state.queues ?? []).filter((queue) => queue.yours);
  const waiting = yours.reduce((sum, queue) => sum + queue.open, 0);
  const place = $("[data-count=review]");
  if (place) place.textContent = waiting > 0 ? String(waiting) : "";
}

if (!outside) {
  me().then((who) => {
    whose(who);
    listen();
    onState((state, { lost }) => {
      if (!state) { if (lost) trouble({}, lost); return; }
      banner(state);
      trouble(state, lost);
      counts(state);
    });
  }, (error) => {
    if (error.type === "not_signed_in") toSignIn();
    else fill($("#trouble"), el("p", { class: "bar warn" }, `${error.message} ${error.todo}`));
  });
}
