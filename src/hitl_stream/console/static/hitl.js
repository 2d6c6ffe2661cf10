// What every page stands on: asking the API, making elements, and showing other people's words as text.
//
// Nothing here takes HTML: an element is made from its name, and words are set as text. The browser holds us to it
// (Trusted Types).

/** What the API answers when it does not do what it was asked (RFC 9457); `status` 0: it did not answer. */
export class Problem extends Error {
  constructor(status, body) {
    super(body.title);
    this.status = status;
    this.type = (body.type ?? "").replace("urn:hitl:", "");
    this.where = body.detail ?? "";
    this.todo = body.todo ?? "";
  }
  /** Whether the same request may do better in a moment. */
  get passes() { return [0, 502, 503, 504].includes(this.status); }
}

const AWAY = { type: "urn:hitl:away", title: "The console does not answer.", todo: "It is asked again by itself; look whether hitl run console is running." };

/** Ask the API. Returns what it answers as data, null where there is nothing to say; throws a Problem. */
export async function api(method, path, body, { keepalive = false, signal } = {}) {
  return request(method, `/api/v1${path}`, body, { keepalive, signal });
}

export async function request(method, path, body, { keepalive = false, signal } = {}) {
  const headers = { "X-Hitl-Console": "1" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers, keepalive, signal, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, AWAY);
  }
  if (response.status === 204) return null;
  const text = await response.text();
  let data;
  try {
    data = JSON.parse(text);
  } catch {
    throw new Problem(response.ok ? 502 : response.status, { title: "The console answered something that is not JSON.", todo: "A proxy may stand between; look at its log." });
  }
  if (!response.ok) {
    const problem = new Problem(response.status, data);
    if (problem.type === "not_signed_in" && path !== "/session") toSignIn();
    throw problem;
  }
  return data;
}

/** Go and sign in, and come back to where we are. */
export function toSignIn() {
  if (["/sign-in", "/link"].includes(location.pathname)) return;
  location.assign(`/sign-in?next=${encodeURIComponent(location.pathname + location.search)}`);
}

let asked;
/** Who is signed in: {name, roles, scopes, tenants, fresh, qualified}. */
export function me() {
  asked ??= api("GET", "/me");
  return asked;
}

/** Segments of a path, each of which may hold anything. */
export const part = encodeURIComponent;

// --- elements ---

/** Make an element: el("p", {class: "faint", onclick: f, hidden: true}, "text", child, [more], null). */
export function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

export function svg(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

export const $ = (selector, under = document) => under.querySelector(selector);

/** Put children in the place of what an element holds. */
export function fill(element, ...children) {
  element.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// --- other people's words ---

const NAMES = {
  0x00ad: "SHY", 0x034f: "CGJ", 0x061c: "ALM", 0x115f: "HCF", 0x1160: "HJF", 0x17b4: "KIV", 0x17b5: "KIV", 0x180e: "MVS",
  0x200b: "ZWSP", 0x200c: "ZWNJ", 0x200d: "ZWJ", 0x200e: "LRM", 0x200f: "RLM", 0x2028: "LS", 0x2029: "PS", 0x202a: "LRE",
  0x202b: "RLE", 0x202c: "PDF", 0x202d: "LRO", 0x202e: "RLO", 0x2060: "WJ", 0x2066: "LRI", 0x2067: "RLI", 0x2068: "FSI",
  0x2069: "PDI", 0x3164: "HF", 0xfeff: "BOM", 0xffa0: "HHF", 0x00a0: "NBSP",
};
// Controls but tab and newline, format characters, private use, lone surrogates, odd spaces, variation selectors.
const UNSEEN = /[\p{Cc}\p{Cf}\p{Co}\p{Cs}\p{Cn}\p{Zl}\p{Zp}\u00a0\u034f\u115f\u1160\u17b4\u17b5\u1680\u2000-\u200a\u202f\u205f\u2800\u3164\uffa0\u{e0100}-\u{e01ef}]/u;
const WORD = /[\p{L}\p{M}\p{N}]+/gu;
const LATIN = /\p{Script=Latin}/u;
const LIKE_LATIN = /[\p{Script=Cyrillic}\p{Script=Greek}\p{Script=Armenian}\p{Script=Cherokee}]/u;
const JOINED = /\p{Extended_Pictographic}\u200d\p{Extended_Pictographic}/u;

/** Return words as nodes: what cannot be seen has a visible mark, and a word of look-alike letters is underlined. */
export function shown(text) {
  const nodes = [];
  let plain = "";
  const flush = () => { if (plain) nodes.push(...mixed(plain)); plain = ""; };
  const all = [...String(text)];
  all.forEach((one, at) => {
    const code = one.codePointAt(0);
    const fine = code === 10 || code === 9 || (code === 0x200d && JOINED.test((all[at - 1] === "\ufe0f" ? all[at - 2] : all[at - 1]) + one + (all[at + 1] ?? "")));
    if (fine || !UNSEEN.test(one)) { plain += one; return; }
    flush();
    nodes.push(mark(code));
  });
  flush();
  return nodes;
}

function mark(code) {
  const hex = code.toString(16).toUpperCase().padStart(4, "0");
  return el("span", { class: "unseen", title: `U+${hex}, which cannot be seen` }, NAMES[code] ?? `U+${hex}`);
}

function mixed(text) {
  const nodes = [];
  let end = 0;
  for (const found of text.matchAll(WORD)) {
    const word = found[0];
    if (!(LATIN.test(word) && LIKE_LATIN.test(word))) continue;
    nodes.push(text.slice(end, found.index), el("span", { class: "mixed", title: "Letters of several alphabets that look alike" }, word));
    end = found.index + word.length;
  }
  nodes.push(text.slice(end));
  return nodes.filter((node) => node !== "");
}

export const LONG = 600;

/** Return a block of words that came from outside: whole, as text, its direction kept inside. */
export function words(text, name = "div") {
  const whole = String(text ?? "");
  const long = whole.length > LONG;
  return el(name, { class: long ? "words long" : "words", dir: "auto", tabindex: long ? "0" : null, ...(long ? { role: "group", "aria-label": `${whole.length} characters` } : {}) }, shown(whole));
}

/** Return any value of an action as words: text as it is, everything else as JSON. */
export function value(any) {
  return words(typeof any === "string" ? any : JSON.stringify(any, null, 1), "span");
}

// --- times and numbers ---

/** "3 min", "2 h", of so many seconds. */
export function span(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 172800) return `${Math.floor(s / 3600)} h${s % 3600 >= 60 && s < 36000 ? ` ${Math.floor((s % 3600) / 60)} min` : ""}`;
  return `${Math.floor(s / 86400)} days`;
}

/** A time element that says how long ago, and exactly when on hover. */
export function ago(iso) {
  if (!iso) return el("span", { class: "faint" }, "–");
  const seconds = (Date.now() - Date.parse(iso)) / 1000;
  return el("time", { datetime: iso, title: iso }, seconds >= 0 ? `${span(seconds)} ago` : `in ${span(-seconds)}`);
}

/** An amount with thin groups of thousands, all of its digits kept. */
export function amount(text) {
  const [whole, rest] = String(text).split(".");
  return whole.replace(/\B(?=(\d{3})+$)/g, "\u2009") + (rest === undefined ? "" : `.${rest}`);
}

/** Sums of money by unit, such as {EUR: "887.2278"}, to the cent: "887.23 EUR". */
export function money(sums) {
  return Object.entries(sums).map(([unit, sum]) => `${amount(String(Math.round(Number(sum) * 100) / 100))} ${unit}`);
}

// --- saying something ---

const SAID_MS = 6000;

/** Say something at the edge of the page; returns what takes it away. `action`: {label, run}. */
export function say(text, { kind = "", action = null, stays = false } = {}) {
  const away = () => one.remove();
  const one = el("div", { class: `said ${kind}` }, text, action ? el("button", { class: "plain", type: "button", onclick: () => { away(); action.run(); } }, action.label) : null);
  $("#said").append(one);
  if (!stays) setTimeout(away, SAID_MS);
  return away;
}

/** A Problem as a block: what was found, where, and what to do. */
export function trouble(error, again = null) {
  const problem = error instanceof Problem ? error : new Problem(0, { title: `This page broke: ${error.message ?? error}`, todo: "Reload it; if it happens again, report it." });
  if (!(error instanceof Problem)) console.error(error);
  return el("div", { class: "note bad", role: "alert" },
    el("p", {}, el("strong", {}, shown(problem.message))),
    problem.where ? el("p", { class: "small" }, shown(problem.where)) : null,
    problem.todo ? el("p", {}, shown(problem.todo)) : null,
    again ? el("button", { type: "button", onclick: again }, "Try again") : null);
}

// --- a sign-in of a moment ago ---

/** Ask for the password once more; resolves to true when signed in, false when left. */
export async function freshen(what) {
  const { name } = await me();
  return new Promise((resolve) => {
    const secret = el("input", { type: "password", id: "again", autocomplete: "current-password", required: true });
    const wrong = el("div", {});
    const form = el("form", { method: "dialog" },
      el("h2", {}, "Is it still you?"),
      el("p", {}, `${what} wants a sign-in of the last five minutes.`),
      wrong,
      el("div", { class: "field" }, el("label", { for: "again" }, `Password of ${name}`), secret),
      el("div", { class: "row" }, el("button", { class: "main" }, "Sign in"), el("button", { type: "button", onclick: () => box.close() }, "Leave it")));
    const box = el("dialog", { "aria-label": "Sign in again" }, form);
    let done = false;
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      try {
        await request("POST", "/session", { name, password: secret.value });
        done = true;
        asked = undefined;
        box.close();
      } catch (error) {
        fill(wrong, trouble(error));
        secret.select();
      }
    });
    box.addEventListener("close", () => { box.remove(); resolve(done); });
    document.body.append(box);
    box.showModal();
  });
}
