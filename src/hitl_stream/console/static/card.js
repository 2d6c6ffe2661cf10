// A card as a page draws it: what will happen first, then why a person is asked, then everything else there is.
//
// The card is a text, and its SHA-256 is what a verdict signs: what does not fit its digest is not shown. Everything in it
// was written by somebody outside, so that all of it goes through words(); nothing is cut, nothing is a link.

import { amount, el, shown, value, words } from "./hitl.js";
import { EXCEPTIONS, LEVELS, rule } from "./plain.js";

export const CARD_VERSION = 1;
export const NUMBER = /^-?\d{1,30}(\.\d{1,30})?$/;
const TYPED = /^[\x21-\x7e]([\x20-\x7e]{0,58}[\x21-\x7e])?$/; // what everybody's keyboard can write
const DIFF_CHARACTERS_MAX = 20_000; // a longer text is shown before and after, without marks

/** Read an item of the API: {item, view, card, claimedUntil}. Throws where the card is not what its digest says. */
export async function read(item) {
  if (crypto.subtle) {
    const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(item.card));
    const hex = [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    if (hex !== item.view) throw new Error("a card does not fit its digest, and is not shown");
  }
  const card = JSON.parse(item.card);
  if (card.card !== CARD_VERSION) throw new Error(`a card of version ${card.card} came, and this page draws version ${CARD_VERSION}`);
  return { item: item.item, view: item.view, card };
}

/** What an item is called in a line: its type and what it is about. */
export function headline(card) {
  return `${card.type} · ${place(card.entity) || card.agent.id}`;
}

export function place(entity) {
  return [entity?.account, entity?.campaign].filter(Boolean).join(" / ");
}

/** A ratio such as "+0.0833" as "+8.33 %". */
export function percent(ratio) {
  if (ratio === null || ratio === undefined) return "";
  const hundred = (Number(ratio) * 100).toFixed(2).replace(/\.?0+$/, "");
  return `${Number(ratio) > 0 ? "+" : ""}${hundred.replace("-", "−")}\u202f%`;
}

/** One value: an amount in groups, anything else as the words that it is. */
export function figure(any, unit) {
  if (any === null || any === undefined) return el("span", { class: "faint" }, "nothing");
  const text = String(any);
  if (typeof any === "boolean" || !NUMBER.test(text)) return value(any);
  return el("span", { class: "figure" }, amount(text), unit ? [" ", shown(unit)] : null);
}

// --- the whole ---

/** Draw a card; returns an article whose heading takes the focus. */
export function draw(one) {
  const { card } = one;
  const about = place(card.entity);
  return el("article", { class: "card", "data-item": one.item, "aria-label": "Item" },
    el("header", { class: "card-head" },
      el("h2", { tabindex: "-1", class: "card-title" }, shown(card.type), about ? [" ", el("span", { class: "faint" }, "on"), " ", shown(about)] : null),
      el("div", { class: "row card-tags" }, tags(card)),
      el("p", { class: "small faint card-by" }, "Proposed by ", el("strong", {}, shown(card.agent.id)), card.agent.version ? [" version ", shown(card.agent.version)] : null, " for ", shown(card.tenant), " ", el("span", { class: "due" }))),
    notices(card),
    el("div", { class: "card-body" },
      el("div", { class: "card-main" }, what(card), output(card), assets(card), evidence(card), context(card)),
      el("div", { class: "card-side" }, why(card), opinions(card), limits(card), says(card), facts(card))));
}

function part(name, title, ...children) {
  return el("section", { class: `panel part ${name}` }, el("h3", {}, title), ...children);
}

function tags(card) {
  const missing = card.deadlines.decide_by.filter((need) => need.given < need.people);
  const queues = missing.map((need) => need.people > 1 ? `${need.queue}: ${need.given} of ${need.people} people` : need.queue);
  return [
    card.tier >= 3 ? el("span", { class: "tag bad" }, `Tier ${card.tier}: type the amount to approve`) : el("span", { class: "tag" }, `Tier ${card.tier}`),
    queues.map((text) => el("span", { class: "tag" }, "Needs ", shown(text))),
    card.escalated > 0 ? el("span", { class: "tag warn" }, card.escalated > 1 ? `Escalated ${card.escalated} times` : "Escalated") : null,
    card.flagged ? el("span", { class: "tag warn" }, "Flagged") : null,
    card.exception ? el("span", { class: "tag warn" }, "Exception: ", shown(card.exception)) : null,
    card.covered.length > 0 ? el("span", { class: "tag bad" }, "Covered by a kill switch") : null,
    card.batch ? el("span", { class: "tag" }, "Batch ", shown(card.batch.id)) : null,
    (card.flags ?? []).map((flag) => el("span", { class: "tag warn" }, shown(flag))),
  ];
}

function notices(card) {
  const unknown = Object.entries(card.beside);
  return [
    card.exception ? el("p", { class: "note warn notice" }, el("strong", {}, "It went wrong after it was decided. "), EXCEPTIONS[card.exception] ?? "", " Approve or change proposes it anew, as your own action; reject leaves it. The old one never runs.") : null,
    card.covered.length > 0 ? el("p", { class: "note warn notice" }, el("strong", {}, "A kill switch covers it. "), `What you approve is parked and decided anew once it is released (command ${card.covered.join(", ")}).`) : null,
    unknown.length > 0 ? el("div", { class: "note bad notice beside" },
      el("p", {}, el("strong", {}, `${unknown.length === 1 ? "One part" : `${unknown.length} parts`} of this action nobody here knows. `), "Whoever runs it may read it. Look closely."),
      el("dl", { class: "facts" }, unknown.map(([path, found]) => [el("dt", {}, el("code", {}, shown(path))), el("dd", {}, value(found))]))) : null,
  ];
}

// --- what will happen ---

function what(card) {
  if (card.changes.length === 0) return card.publishes === null ? part("what", "What will happen", el("p", {}, "It changes no field and publishes no text.")) : null;
  const several = card.changes.some((leg) => place(leg.entity) !== place(card.entity));
  return part("what", "What will happen", el("div", { class: "legs" }, card.changes.map((leg) => legOf(leg, card.limits, several))));
}

/** One leg: what it changes, from what to what, and how large a step that is against what an agent may do alone. */
export function legOf(leg, limits, several = false) {
  const isText = typeof leg.before === "string" && typeof leg.after === "string" && !(NUMBER.test(leg.before) && NUMBER.test(leg.after));
  return el("div", { class: "leg" },
    el("p", { class: "leg-name" }, shown(leg.field), several ? [el("span", { class: "faint" }, " of "), shown(place(leg.entity))] : null),
    isText ? textDiff(leg.before, leg.after) : el("p", { class: "leg-step" },
      el("del", {}, el("span", { class: "visually-hidden" }, "from "), figure(leg.before, leg.unit)), el("span", { class: "arrow", "aria-hidden": "true" }, "→"),
      el("ins", {}, el("span", { class: "visually-hidden" }, "to "), figure(leg.after, leg.unit))),
    leg.delta === null ? null : el("p", { class: "leg-size" }, figure2(leg), measure(leg, limits)));
}

function figure2(leg) {
  return el("span", {}, el("strong", {}, leg.delta.startsWith("-") ? "−" : "+", amount(leg.delta.replace(/^[+-]/, ""))), leg.unit ? [" ", shown(leg.unit)] : null,
    leg.ratio === null ? el("span", { class: "faint" }, ", from nothing") : el("span", {}, ", ", percent(leg.ratio)));
}

/** How much of the limit a step takes: a word, and a bar. */
function measure(leg, limits) {
  if (leg.ratio === null || !limits?.auto_max_change) return null;
  const size = Math.abs(Number(leg.ratio));
  const limit = Number(limits.auto_max_change);
  const over = size > limit;
  return el("span", { class: "measure" },
    el("meter", { min: "0", max: String(Math.max(limit * 2, Number.MIN_VALUE)), high: String(limit), low: String(limit), optimum: "0", value: String(Math.min(size, limit * 2)), "aria-label": "Step against the limit" }),
    el("span", { class: `tag ${over ? "warn" : "good"}` }, over && limit > 0 ? `${(size / limit).toFixed(1)} × the limit of ${percent(limit).replace("+", "")}` : over ? "no step is allowed alone" : `inside the limit of ${percent(limit).replace("+", "")}`));
}

/** Two texts, with what differs marked: what goes is struck out, what comes is underlined. */
export function textDiff(before, after) {
  const [start, gone, come, end] = differing(before, after);
  return el("div", { class: "text-diff" },
    el("div", { class: "words", dir: "auto" }, el("span", { class: "visually-hidden" }, "Before: "), shown(start), el("del", {}, shown(gone)), shown(end)),
    el("div", { class: "words", dir: "auto" }, el("span", { class: "visually-hidden" }, "After: "), shown(start), el("ins", {}, shown(come)), shown(end)));
}

/** Return what two texts begin with, what each has for itself, and what both end with; cut between words. */
export function differing(before, after) {
  if (before.length + after.length > DIFF_CHARACTERS_MAX) return ["", before, after, ""];
  const one = before.match(/\s+|[^\s]+/gu) ?? [];
  const other = after.match(/\s+|[^\s]+/gu) ?? [];
  let start = 0;
  while (start < one.length && start < other.length && one[start] === other[start]) start += 1;
  let end = 0;
  while (end < one.length - start && end < other.length - start && one[one.length - 1 - end] === other[other.length - 1 - end]) end += 1;
  return [one.slice(0, start).join(""), one.slice(start, one.length - end).join(""), other.slice(start, other.length - end).join(""), one.slice(one.length - end).join("")];
}

function output(card) {
  if (card.publishes === null) return null;
  const { text, language, platform, destination } = card.publishes;
  const where = [["Platform", platform], ["Language", language], ["Destination", destination]].filter(([, found]) => found);
  const facts = where.length > 0 ? el("p", { class: "small faint" }, where.map(([name, found], at) => [at > 0 ? " · " : null, `${name}: `, shown(found)])) : null;
  const made = part("output", "What will be published", text === null ? el("p", { class: "faint" }, "No text.") : words(text), el("p", { class: "small faint" }, `${[...(text ?? "")].length} characters`), facts);
  if (card.source === null) return made;
  return el("div", { class: "beside-each-other" }, made, part("source", "What it was made from", words(card.source), el("p", { class: "small faint" }, `${[...card.source].length} characters`)));
}

function assets(card) {
  if (card.assets.length === 0) return null;
  return part("assets", card.assets.length === 1 ? "One asset" : `${card.assets.length} assets`, el("p", { class: "small faint" }, "Named, and not loaded: look at each where it is kept."),
    el("ul", { class: "plain-list" }, card.assets.map((one) => el("li", {}, value(one.uri), el("div", { class: "small faint" }, shown(one.media_type), " · SHA-256 ", el("code", {}, one.sha256))))));
}

function evidence(card) {
  if (card.evidence.length === 0) return part("evidence", "Evidence", el("p", { class: "faint" }, "The agent names none."));
  return part("evidence", "Evidence", el("div", { class: "scrolls", tabindex: "0", role: "group", "aria-label": "Evidence" }, el("table", {},
    el("thead", {}, el("tr", {}, ["Signal", "Before", "Now", "Better", "Reference"].map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", {}, card.evidence.map((row) => el("tr", {}, el("td", {}, value(row.signal)), el("td", {}, figure(row.before)), el("td", {}, figure(row.value)), el("td", {}, shown(row.better ?? "–")), el("td", {}, row.ref ? value(row.ref) : "–")))))));
}

function context(card) {
  const rows = Object.entries(card.context ?? {});
  if (rows.length === 0) return null;
  return part("context", "Context", el("dl", { class: "facts" }, rows.map(([name, found]) => [el("dt", {}, shown(name)), el("dd", {}, value(found))])));
}

// --- why, and what else there is ---

function why(card) {
  const rows = card.reasons.map((row) => el("li", {}, el("strong", {}, shown(rule(row.rule))),
    el("div", { class: "small" }, "Found ", value(row.saw), row.limit === null ? null : [", limit ", value(row.limit)], row.rate === null ? null : [", at a rate of ", value(row.rate)],
      row.error === null ? null : [" · ", shown(row.error)], el("span", { class: "faint" }, " · ", el("code", {}, shown(row.rule))))));
  return part("why", "Why you are asked", rows.length === 0 ? el("p", {}, "No rule stopped it; a person looks all the same.") : el("ol", { class: "plain-list" }, rows),
    card.reasons_more > 0 ? el("p", { class: "small faint" }, `And ${card.reasons_more} more.`) : null,
    el("p", { class: "small" }, card.score_hidden ? el("span", { class: "faint" }, "The risk score is hidden until somebody has judged it.") : score(card.score)));
}

function score(found) {
  if (found === null) return null;
  const total = Number(found.total);
  return ["Risk score ", el("strong", {}, Number.isFinite(total) ? total.toFixed(2) : String(found.total)), " of 1"];
}

function opinions(card) {
  if (!card.opinions || card.opinions.length === 0) return null;
  return part("opinions", "What others thought", el("ul", { class: "plain-list" }, card.opinions.map((one) => el("li", {}, value(one.reviewer), ": ", el("strong", {}, shown(one.verdict)), one.confidence == null ? null : [", sure to ", shown(one.confidence)], one.note ? el("div", {}, value(one.note)) : null))));
}

/** What the agent may and may not do here by itself. */
function limits(card) {
  const may = card.limits;
  const rows = [];
  if (may.auto_max_change != null) rows.push(["A step of at most", percent(may.auto_max_change).replace("+", "")]);
  for (const [window, limit] of Object.entries(may.auto_max_change_per ?? {})) rows.push([`All steps in ${window}`, percent(limit).replace("+", "")]);
  for (const [unit, most] of Object.entries(may.auto_max_amount ?? {})) rows.push(["Money of at most", [amount(most), " ", shown(unit)]]);
  if (may.auto_min_confidence != null) rows.push(["Sure to at least", may.auto_min_confidence]);
  if (may.evidence === "required") rows.push(["Evidence", "required"]);
  if (may.needs?.length > 0) rows.push(["It must say", shown(may.needs.join(", "))]);
  if (may.people > 1) rows.push(["People", `${may.people} must approve`]);
  return part("limits", "What this agent may do here",
    el("p", {}, may.known ? [`Level ${may.level}: it `, LEVELS[may.level] ?? "", "."] : "The policy does not know this kind of action: nothing of it runs without a person."),
    rows.length > 0 ? el("dl", { class: "facts small" }, rows.map(([name, text]) => [el("dt", {}, shown(name)), el("dd", {}, text)])) : null,
    may.consequence?.length > 0 ? el("p", { class: "small faint" }, "What it touches: ", shown(may.consequence.join(", ").replaceAll("_", " "))) : null);
}

function says(card) {
  const { rationale, confidence } = card.agent_says;
  return el("section", { class: "part says", "aria-label": "The agent's own words" }, el("h3", {}, "In the agent's own words"),
    el("p", { class: "small faint" }, "Not checked by anybody. Judge what it does, not what it says."),
    rationale ? words(rationale, "blockquote") : el("p", { class: "faint" }, "It gives no reason."),
    confidence == null ? null : el("p", { class: "small" }, "It says that it is sure to ", value(confidence), "."));
}

function facts(card) {
  return el("details", { class: "facts-more" }, el("summary", {}, "Digests and times"), el("dl", { class: "facts small" },
    [["Item", card.item], ["Opened", card.opened], ["Action's SHA-256", card.hash], ["Policy", card.policy], ["Expires", card.deadlines.expires_at ?? "–"], ["Reading takes at least", `${card.floor_s} s`]]
      .map(([name, text]) => [el("dt", {}, name), el("dd", {}, el("code", {}, shown(text)))])));
}

// --- what an approval has to type ---

/** What somebody types to approve an item of the highest tier: {what, text}. */
export function confirmation(card) {
  const legs = card.changes.filter((leg) => NUMBER.test(String(leg.after)) && typeof leg.after !== "boolean");
  const size = (leg) => Math.abs(Number(leg.delta ?? leg.after));
  const largest = legs.reduce((best, leg) => best === null || size(leg) > size(best) ? leg : best, null);
  if (largest) return { what: `the new ${largest.field}`, text: String(largest.after), unit: largest.unit };
  const about = card.entity?.campaign ?? card.entity?.account ?? card.type;
  return TYPED.test(about) ? { what: "what it is about", text: about, unit: null } : { what: "this word", text: "approve", unit: null };
}

/** Say whether what was typed is what was asked; spaces between groups, and a comma for a point, do not matter. */
export function confirms(typed, wanted) {
  if (!NUMBER.test(wanted)) return typed.trim() === wanted.trim();
  const plain = typed.replace(/[\s\u2009\u202f]/g, "").replace(",", ".");
  return NUMBER.test(plain) && trimmed(plain) === trimmed(wanted);
}

function trimmed(text) {
  const [whole, rest = ""] = text.split(".");
  return `${whole.replace(/^(-?)0+(?=\d)/, "$1")}.${rest.replace(/0+$/, "")}`;
}
