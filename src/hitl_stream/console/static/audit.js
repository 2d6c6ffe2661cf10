// Audit: find what was decided, read the whole story of one action in order, take it away as JSON Lines, undo what ran.
//
// Numbers of a record are shown and exported as they were written, where the browser can tell; nothing is left out.

import { $, ago, api, el, fill, me, part, say, shown, trouble, words } from "./hitl.js";
import { figure, place } from "./card.js";
import { keys } from "./keys.js";
import { effect } from "./plain.js";

const LIMIT = 50;
const KEPT_MS = 10_000; // some browsers read what is downloaded a moment later
const READING = ["viewer", "auditor"];
const FIELDS = ["action", "account", "campaign", "reviewer"];
const PAST = { approve: "approved it", reject: "rejected it", change: "changed it", escalate: "passed it on" };
const STANDS = {
  executed: ["good", "carried out"], failed: ["bad", "refused by the platform"], unresolved: ["warn", "nobody knows"],
  rejected: ["", "rejected"], expired: ["", "expired"], stale: ["", "stale"], superseded: ["", "replaced"], refused: ["bad", "refused"],
  approve: ["", "approved"], reject: ["", "rejected"], change: ["", "changed"], escalate: ["", "passed on"],
};
const ENDS = {
  rejected: "It was rejected, and never ran.", expired: "Its time ran out. It never ran.", stale: "What it was based on had changed meanwhile. It never ran.",
  superseded: "It was replaced by another proposal. It never ran itself.", refused: "It was refused, and never ran.",
};

// --- asking, with numbers as they were written ---

/** Read JSON; a number that would change by being read stays as it was written. */
export function exactly(text) {
  if (typeof JSON.rawJSON !== "function") return JSON.parse(text);
  return JSON.parse(text, (_key, found, context) => (typeof found === "number" && context?.source !== undefined && String(found) !== context.source ? JSON.rawJSON(context.source) : found));
}

async function ask(path) {
  let response;
  try {
    response = await fetch(`/api/v1${path}`, { headers: { "X-Hitl-Console": "1" } });
    if (response.ok) return exactly(await response.text());
  } catch { /* asked once more below, which says what went wrong */ }
  return api("GET", path);
}

const query = () => new URLSearchParams(location.search);

// --- searching ---

function stands(word) {
  if (!word) return el("span", { class: "tag warn" }, "still asked");
  const [kind, text] = STANDS[word] ?? ["", word];
  return el("span", { class: `tag ${kind}` }, shown(text));
}

function address(changes) {
  const all = query();
  for (const [name, what] of Object.entries(changes)) { if (what) all.set(name, what); else all.delete(name); }
  return `/audit?${all}`;
}

function hit(row) {
  return el("tr", {},
    el("td", { "data-name": "When" }, ago(row.at)),
    el("th", { scope: "row" }, el("a", { href: address({ tenant: row.tenant, action: row.action_id }) }, shown(row.action_id)), row.type ? el("span", { class: "small faint meaning" }, shown(row.type)) : null),
    el("td", { "data-name": "Where" }, shown(place(row.entity) || "–")),
    el("td", { "data-name": "Stands" }, stands(row.stands)),
    el("td", { "data-name": "By" }, row.by.length ? shown(row.by.join(", ")) : el("span", { class: "faint" }, "–")));
}

function results(told) {
  if (told.hits.length === 0) {
    return el("div", { class: "panel empty" }, el("h2", {}, "Nothing was found"), el("p", {}, "What is still asked is not found by those who decide. Ask for less, or look whether the names are written as the agent writes them."));
  }
  const count = told.more ? `The newest ${told.hits.length}; there are more` : `${told.hits.length} found`;
  return el("section", { class: "panel" },
    el("div", { class: "row between" }, el("h2", { id: "found", tabindex: "-1" }, "Decided actions"), el("span", { class: "row" }, el("span", { class: "small faint" }, count), exportButton("actions.jsonl", told.hits))),
    el("table", { class: "hits stack" },
      el("thead", {}, el("tr", {}, ["When", "Action", "Where", "Stands", "By"].map((name) => el("th", { scope: "col" }, name)))),
      el("tbody", {}, told.hits.map(hit))));
}

function move(step) {
  const links = [...document.querySelectorAll(".hits a, .story summary")];
  if (links.length === 0) return;
  const at = links.indexOf(document.activeElement);
  links[Math.min(Math.max(at + step, 0), links.length - 1)].focus();
}

// --- taking away ---

/** JSON Lines: one record a line, as it is shown. */
export function lines(rows) { return rows.map((row) => `${JSON.stringify(row)}\n`).join(""); }

function exportButton(name, rows) {
  const save = () => {
    const url = URL.createObjectURL(new Blob([lines(rows)], { type: "application/jsonl" }));
    const link = el("a", { href: url, download: name.replace(/[^A-Za-z0-9._~-]/g, "_") });
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), KEPT_MS);
    say(`${rows.length === 1 ? "1 line" : `${rows.length} lines`} exported as ${link.download}.`);
  };
  return el("button", { type: "button", onclick: save }, "Export as JSON Lines");
}

// --- the story of one action ---

function by(record) { return [record.by ?? []].flat(); }

function people(names) { return names.length ? el("strong", {}, shown(names.join(" and "))) : el("strong", {}, "Nobody"); }

function seconds(from, to) {
  const s = (Date.parse(to) - Date.parse(from)) / 1000;
  return Number.isFinite(s) && s >= 0 ? `${Math.round(s)} s after it was shown` : null;
}

function reason(record) {
  const parts = [];
  if (record.code) parts.push(el("p", { class: "small" }, "Reason: ", el("code", {}, shown(record.code))));
  if (record.note) parts.push(el("div", { class: "said-note" }, words(record.note)));
  return parts;
}

const TELL = {
  decision(record) {
    const what = effect(record);
    const after = seconds(record.painted, record.decided);
    return [el("p", {}, people(by(record)), record.role ? [" (", shown(record.role), ") "] : " ", shown(PAST[record.verdict] ?? record.verdict), after ? el("span", { class: "faint" }, `, ${after}`) : null, record.effect === "applied" ? "." : `; ${what.text}.`), reason(record)];
  },
  closed(record) {
    const who = by(record);
    return [el("p", {}, el("strong", {}, shown(ENDS[record.end] ?? record.end)), who.length ? [" Decided by ", shown(who.join(" and ")), "."] : null), record.why && record.why !== record.end ? el("p", { class: "small" }, "Why: ", el("code", {}, shown(record.why))) : null, reason(record)];
  },
  result(record) {
    const platform = record.platform ?? {};
    const text = { executed: "It was carried out.", failed: "The platform refused it. Nothing was changed.", unresolved: "Nobody knows whether it was carried out." }[record.status] ?? record.status;
    const who = by(record);
    return [el("p", {}, el("strong", {}, shown(text)), who.length ? [" Approved by ", shown(who.join(" and ")), "."] : " No person was asked."), platform.text ? el("div", { class: "said-note" }, words(platform.text)) : null, platform.ref ? el("p", { class: "small faint" }, "The platform calls it ", el("code", {}, shown(platform.ref))) : null];
  },
};
const KINDS = { decision: "Judgement", closed: "End", result: "Result" };

function step(at, kind, told, record = null, source = null) {
  return el("li", {},
    el("div", { class: "when" }, el("time", { datetime: at, title: at }, clock(at)), el("span", { class: "small faint" }, kind)),
    el("div", { class: "what" }, told, record ? el("details", {}, el("summary", {}, "Record", el("span", { class: "visually-hidden" }, ` of ${kind} at ${at}`)), el("p", { class: "small faint" }, shown(source)), words(JSON.stringify(record, null, 2), "pre")) : null));
}

function clock(at) {
  const time = new Date(at);
  return Number.isNaN(time.valueOf()) ? shown(at) : time.toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "medium" });
}

/** Everything that happened, in order: {at, made}. What was proposed comes first, whatever its own clock says. */
function events(told, action, first) {
  const rows = told.records.map((row) => ({ at: row.at, made: step(row.at, KINDS[row.kind], TELL[row.kind](row.record), row.record, row.source) }));
  for (const item of told.items) rows.push({ at: item.opened, made: step(item.opened, "Review", el("p", {}, "People were asked in ", el("strong", {}, shown(item.queue)), ". That ended: ", shown(String(item.end ?? item.state).toLowerCase()), ".")) });
  rows.sort((one, other) => Date.parse(one.at) - Date.parse(other.at));
  if (!action) return rows;
  const at = action.proposed_at ?? first?.moment ?? told.records[0].at;
  return [{ at, made: step(at, "Proposal", proposed(told, action)) }, ...rows];
}

/** Who proposed it. An id with a tilde is that of a person's proposal, which follows another action. */
function proposed(told, action) {
  const [earlier] = told.action_id.split("~");
  if (!earlier || earlier === told.action_id) return el("p", {}, el("strong", {}, shown(action.agent?.id ?? "An agent")), " proposed it.");
  return el("p", {}, el("strong", {}, "A person"), " proposed it: it follows ", el("a", { href: address({ tenant: told.tenant, action: earlier }) }, shown(earlier)), ".");
}

function changes(list) {
  return el("table", { class: "changes stack" }, el("thead", {}, el("tr", {}, ["Where", "Field", "From", "To"].map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", {}, list.map((change) => el("tr", {},
      el("th", { scope: "row" }, shown(place(change.entity) || "–")), el("td", { "data-name": "Field" }, shown(change.field)),
      el("td", { "data-name": "From" }, figure(plain(change.before), change.unit)), el("td", { "data-name": "To" }, el("strong", {}, figure(plain(change.after), change.unit)))))));
}

/** A number that was kept as it was written, as that text. */
function plain(any) { return any !== null && typeof any === "object" && JSON.isRawJSON?.(any) ? any.rawJSON : any; }

function about(action) {
  return el("section", { class: "panel" }, el("h2", {}, "What was proposed"),
    action.changes?.length ? changes(action.changes) : null,
    action.content ? el("div", { class: "field wide" }, el("h3", {}, "Text", action.content.platform ? [" for ", shown(action.content.platform)] : null), words(action.content.text)) : null,
    action.rationale ? el("div", { class: "agent-words" }, el("h3", {}, "In the words of whoever proposed it"), words(action.rationale)) : null);
}

function headOf(told, action, record) {
  const last = told.records.findLast((row) => row.kind !== "decision")?.record;
  return el("div", { class: "story-head" },
    el("p", { class: "row" }, el("a", { href: address({ action: "" }) }, "Back to the search"), told.undecided ? stands(null) : last ? stands(last.status ?? last.end) : null),
    el("h2", { id: "found", tabindex: "-1" }, shown(told.action_id)),
    el("p", { class: "faint" }, shown(told.tenant), action?.type ?? record?.type ? [" · ", shown(action?.type ?? record.type)] : null));
}

function story(told, who) {
  const record = told.records.find((row) => row.record.action)?.record ?? null;
  const action = record?.action ?? null;
  const all = events(told, action, record);
  return [
    el("div", { class: "row between" }, headOf(told, action, record), told.records.length ? exportButton(`${told.tenant}-${told.action_id}.jsonl`, told.records) : null),
    told.undecided ? el("p", { class: "note warn" }, "People are asked about it now. Until that is over, nobody's judgement is told.") : null,
    action ? about(action) : null,
    all.length ? el("section", { class: "panel" }, el("h2", {}, "What happened"), el("ol", { class: "story" }, all.map((one) => one.made))) : null,
    told.reversal ? el("section", { class: "panel", id: "reverse" }, el("h2", {}, "Reverse"), reversal(told, who)) : null,
  ];
}

// --- undoing ---

function mayPropose(who) { return who.kind === "person" && who.scopes.includes("actions:write") && !who.roles.every((role) => READING.includes(role)); }

function reversal(told, who) {
  const { reversal: found } = told;
  const link = el("a", { href: address({ tenant: told.tenant, action: found.action_id }) }, shown(found.action_id));
  if (found.why) return el("p", { class: "note" }, "It cannot be undone: ", shown(found.why), ".", found.path ? [" (", el("code", {}, shown(found.path)), ")"] : null);
  if (found.known) return el("p", { class: "note" }, "What would undo it was proposed already: ", link, ".");
  const back = [el("p", {}, "What would put back what stood there before:"), changes(found.changes)];
  if (!mayPropose(who)) return [...back, el("p", { class: "faint" }, "You only read: somebody with another role proposes it.")];
  return [...back, form(told)];
}

function form(told) {
  const why = el("textarea", { id: "why", required: true, maxlength: "2000", "aria-describedby": "why-help" });
  const button = el("button", { class: "danger" }, "Reverse");
  const wrong = el("div", {});
  const made = el("form", { class: "undo" },
    el("div", { class: "field" }, el("label", { for: "why" }, "Why?"), why, el("p", { class: "small faint", id: "why-help" }, "It is proposed as your own action and decided like any other. If somebody has changed the value since, it is not touched.")),
    wrong, button);
  made.addEventListener("submit", async (event) => {
    event.preventDefault();
    const reasonText = why.value.trim();
    if (!reasonText || button.disabled) { why.focus(); return; }
    button.disabled = true;
    fill(wrong);
    try {
      const sent = await api("POST", `/actions/${part(told.tenant)}/${part(told.action_id)}/reverse`, { reason: reasonText });
      const done = el("p", { class: "note good", tabindex: "-1" }, "Proposed in your name; nothing has changed yet. Its story: ", el("a", { href: address({ tenant: sent.tenant, action: sent.action_id }) }, shown(sent.action_id)), ", as soon as people are asked or it has ended.");
      made.replaceWith(done);
      done.focus();
    } catch (error) {
      fill(wrong, trouble(error));
      button.disabled = false;
    }
  });
  return made;
}

// --- the page ---

function tenants(who) {
  const own = who.tenants;
  const given = query().get("tenant") ?? "";
  if (own?.length === 1) return el("input", { type: "hidden", id: "tenant", name: "tenant", value: own[0] });
  const field = own ? el("select", { id: "tenant", name: "tenant" }, own.map((name) => el("option", { value: name, selected: name === given }, shown(name)))) : el("input", { id: "tenant", name: "tenant", required: true, maxlength: "200", value: given, autocomplete: "off", autocapitalize: "none", spellcheck: "false" });
  return el("div", { class: "field" }, el("label", { for: "tenant" }, "Tenant"), field);
}

function asked_() {
  const all = query();
  const told = { tenant: all.get("tenant"), action_id: all.get("action"), account: all.get("account"), campaign: all.get("campaign"), reviewer: all.get("reviewer") };
  return Object.fromEntries(Object.entries(told).filter(([, what]) => what));
}

let turn = 0;

async function load(who, { focus = false } = {}) {
  const mine = ++turn;
  for (const name of FIELDS) $(`#${name}`).value = query().get(name) ?? "";
  if ($("select#tenant, input#tenant:not([type=hidden])") && query().get("tenant")) $("#tenant").value = query().get("tenant");
  fill($("#wrong"));
  const asked = asked_();
  const tenant = asked.tenant ?? (who.tenants?.length === 1 ? who.tenants[0] : null);
  $("#form").hidden = Boolean(asked.action_id && tenant);
  if (!tenant) { fill($("#all"), el("div", { class: "panel empty" }, el("h2", {}, "Whose actions?"), el("p", {}, "Name a tenant and search."))); return; }
  fill($("#all"), el("p", { class: "loading", role: "status" }, "Loading…"));
  try {
    const made = asked.action_id
      ? story(await ask(`/actions/${part(tenant)}/${part(asked.action_id)}`), who)
      : results(await ask(`/search?${new URLSearchParams({ ...asked, tenant, limit: LIMIT })}`));
    if (mine !== turn) return;
    fill($("#all"), made);
    if (focus) $("#found")?.focus();
  } catch (error) {
    if (mine !== turn) return;
    $("#form").hidden = false;
    fill($("#all"));
    fill($("#wrong"), trouble(error, () => load(who)));
  }
}

function begin(who) {
  fill($("#tenants"), tenants(who));
  const form = $("#form");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const given = [...new FormData(form)].map(([name, what]) => [name, what.trim()]).filter(([, what]) => what);
    history.pushState(null, "", `/audit?${new URLSearchParams(given)}`);
    load(who, { focus: true });
  });
  form.addEventListener("reset", () => { history.pushState(null, "", "/audit"); load(who); });
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("#all a[href^='/audit?']");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    history.pushState(null, "", link.getAttribute("href"));
    scrollTo(0, 0);
    load(who, { focus: true });
  });
  addEventListener("popstate", () => load(who, { focus: true }));
  keys({ j: { label: "The next one", run: () => move(1) }, k: { label: "The one before", run: () => move(-1) } });
  load(who);
}

me().then(begin, (error) => { fill($("#all")); fill($("#wrong"), trouble(error, () => location.reload())); });
