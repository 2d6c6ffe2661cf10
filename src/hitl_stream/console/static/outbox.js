// Decisions on their way: each rests for three seconds, in which it can be undone, and is then sent until it is answered.
//
// - Each has an id of its own, so that sending it again is safe: it counts once.
// - Each is in the tab's storage from the key on until it is answered, and is sent after a reload, or a new sign-in of the
//   same person. Nobody sends another one's.
// - They are sent one after the other, in their order. A console that does not answer is asked again for ever, and the
//   page says so. What the console refuses goes back to who decided it.

import { Problem, api, part } from "./hitl.js";
import { hold } from "./holding.js";

export const REST_MS = 3000;
const BACKOFF_MS = [1000, 2000, 4000, 8000, 15000];
const ELSEWHERE_MS = 2000;
const ANSWER_MS_MAX = 15_000;
const AGO_MS_MAX = 12 * 3_600_000;
const STORED = "hitl-outbox";
const AGAIN = [429, 500]; // besides what `passes`: it may be better in a moment, and the id makes it safe

export function newId() {
  if (crypto.randomUUID) return crypto.randomUUID();
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

export class Outbox {
  /** `told`: {change(), sent(entry, answer), refused(entry, problem)}; `by` is who is signed in; `where`: items, or pairs. */
  constructor(by, told, storage = sessionStorage, where = "items") {
    this.by = by;
    this.told = told;
    this.storage = storage;
    this.where = where;
    this.stored = where === "items" ? STORED : `${STORED}-${where}`;
    this.entries = [];
    this.trouble = null; // the last Problem, and when it is tried again: {problem, atMs}
    this.tries = 0;
    this.receipts = new Map();
    this.timer = null;
    this.busy = false;
    this.channel = new BroadcastChannel(this.stored);
    this.channel.addEventListener("message", (event) => this.#drop(event.data.sent));
    this.#restore();
    addEventListener("pagehide", () => this.flush());
    addEventListener("pageshow", (event) => { if (event.persisted) this.now(); });
    addEventListener("online", () => this.now());
  }

  /** Take a decision. `receipt` is a promise of the card's receipt; `kept` comes back with the entry, and is not stored. */
  put({ item, view, title, body }, receipt, kept = null) {
    const at = Date.now();
    const entry = { id: newId(), by: this.by, item, view, title, body, painted: null, decided: at, due: at + REST_MS, kept };
    this.entries.push(entry);
    this.receipts.set(entry.id, receipt);
    receipt.then((found) => { entry.painted = found; this.#store(); }, () => {});
    this.#changed();
    return entry;
  }

  /** Take the newest decision that still rests back; null: there is none. */
  undo() {
    const entry = this.entries.findLast((one) => one.by === this.by && this.rests(one));
    if (!entry) return null;
    this.#forget(entry);
    return entry;
  }

  rests(entry) { return entry.due > Date.now() && !entry.sending; }

  get mine() { return this.entries.filter((one) => one.by === this.by); }
  get others() { return this.entries.filter((one) => one.by !== this.by); }
  get waiting() { return this.mine.filter((one) => !this.rests(one)); }
  get items() { return this.mine.map((one) => one.item); }

  /** Try at once what waits for a console that did not answer. */
  now() {
    this.trouble = null;
    this.#pump();
  }

  /** Send everything without waiting for an answer: the page is being left. What arrives twice counts once. */
  flush() {
    for (const entry of this.mine) {
      if (!entry.painted) continue; // it stays in the storage
      entry.due = Math.min(entry.due, Date.now());
      this.#post(entry, { keepalive: true }).catch(() => {});
    }
    this.#store();
  }

  // --- sending ---

  async #pump() {
    if (this.busy) return;
    this.busy = true;
    try {
      for (let entry = this.#due(); entry; entry = this.#due()) await this.#send(entry);
    } finally {
      this.busy = false;
      this.#schedule();
    }
  }

  #due() {
    if (this.trouble && this.trouble.atMs > Date.now()) return undefined;
    return this.mine.find((one) => one.due <= Date.now());
  }

  #schedule() {
    clearTimeout(this.timer);
    const first = this.mine[0];
    if (!first) return;
    const at = Math.max(Math.min(...this.mine.map((one) => one.due)), this.trouble?.atMs ?? 0);
    this.timer = setTimeout(() => this.#pump(), Math.max(0, at - Date.now()));
  }

  async #send(entry) {
    if (!await hold(entry.item)) { entry.due = Date.now() + ELSEWHERE_MS; return; }
    entry.sending = true;
    this.#changed();
    try {
      entry.painted ??= await this.#receipt(entry);
      const answer = await this.#post(entry, { signal: AbortSignal.timeout(ANSWER_MS_MAX) });
      this.trouble = null;
      this.tries = 0;
      this.channel.postMessage({ sent: entry.id });
      this.#forget(entry);
      this.told.sent(entry, answer);
    } catch (error) {
      this.#failed(entry, error);
    } finally {
      entry.sending = false;
    }
  }

  async #receipt(entry) {
    const found = await this.receipts.get(entry.id);
    if (found) return found;
    return (await api("POST", `/${this.where}/${part(entry.item)}/painted`, { view: entry.view })).receipt;
  }

  #post(entry, options) {
    const agoMs = Math.min(Math.max(0, Math.round(Date.now() - entry.decided)), AGO_MS_MAX);
    const body = { ...entry.body, view: entry.view, painted: entry.painted, id: entry.id, ago_ms: agoMs };
    return api("POST", `/${this.where}/${part(entry.item)}/verdict`, body, options);
  }

  #failed(entry, error) {
    const problem = error instanceof Problem ? error : new Problem(0, { title: "The console did not answer in time.", todo: "It is asked again by itself." });
    if (problem.type === "not_signed_in") { this.#later(problem); return; } // the page goes to sign in, and comes back
    if (problem.passes || AGAIN.includes(problem.status) || problem.type === "not_fresh") { this.#later(problem); return; }
    this.#forget(entry);
    this.told.refused(entry, problem);
  }

  #later(problem) {
    const wait = BACKOFF_MS[Math.min(this.tries, BACKOFF_MS.length - 1)];
    this.tries += 1;
    this.trouble = { problem, atMs: Date.now() + wait };
    this.#changed();
  }

  // --- what is kept ---

  #forget(entry) {
    this.entries = this.entries.filter((one) => one !== entry);
    this.receipts.delete(entry.id);
    this.#changed();
  }

  #drop(id) {
    const entry = this.entries.find((one) => one.id === id && !one.sending);
    if (entry) this.#forget(entry);
  }

  #changed() {
    this.#store();
    this.#schedule();
    this.told.change();
  }

  #store() {
    const plain = this.entries.map(({ kept, sending, ...entry }) => entry);
    if (plain.length === 0) this.storage.removeItem(this.stored);
    else this.storage.setItem(this.stored, JSON.stringify(plain));
  }

  #restore() {
    let found = [];
    try { found = JSON.parse(this.storage.getItem(this.stored) ?? "[]"); } catch { /* nobody else writes there */ }
    this.entries = found;
    queueMicrotask(() => this.#schedule());
  }
}
