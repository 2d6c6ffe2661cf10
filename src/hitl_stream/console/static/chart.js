// Charts of the last minutes as SVG: lines over time, and spans on a timeline.
//
// What a line says at a place is read with the mouse, a finger or the arrow keys (a chart is a slider over time), and
// stands in a table beneath for whoever reads rather than looks. Lines differ by dashes as well as by colour.

import { el, fill, shown, svg } from "./hitl.js";

const HEIGHT = 190;
const LEFT = 44;
const RIGHT = 12;
const TOP = 10;
const BOTTOM = 24;
const TOPS_S = [60, 120, 240, 480, 1200, 2400, 3600, 7200, 14_400, 28_800, 86_400]; // a quarter of each is a round time
const LINES_MAX = 8; // further series are in the table only
const ROWS_MAX = 15; // of the table: the last of each minute
const SPANS_MAX = 8;
const SPAN_HEIGHT = 22;
const MINUTE_MS = 60_000;

/** A number for people: 1 240, 12.4, 0.031. */
export function short(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size >= 1000) return String(Math.round(value)).replace(/\B(?=(\d{3})+$)/g, "\u2009");
  return String(Number(value.toPrecision(size >= 100 ? 3 : 2)));
}

/** The next round number that is not smaller: 1, 2 or 5 times a power of ten. */
export function round(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((one) => one * power).find((one) => one >= value * 0.999999);
}

/** The same of seconds, of which a quarter is a round time as well. */
export function roundTime(value) {
  return value <= 30 ? round(value) : TOPS_S.find((one) => one >= value) ?? round(value / 86_400) * 86_400;
}

/** Into how many parts an axis up to `top` is divided, so that each is round. */
function ticks(top) {
  return [1, 5].includes(Math.round(top / 10 ** Math.floor(Math.log10(top) + 1e-9))) ? 5 : 4;
}

/** "14:02:12", or "14:02". */
export function clock(ms, seconds = true) {
  return new Date(ms).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", ...(seconds ? { second: "2-digit" } : {}), hour12: false });
}

/** What both kinds share: the width of the page, the time under it, and where a moment lies. */
class Plot {
  constructor(title, about) {
    this.place = el("div", { class: "plot" });
    this.root = el("section", { class: "panel chart" }, el("h2", {}, title), about ? el("p", { class: "small faint about" }, about) : null, this.place);
    this.width = 0;
    this.drawing = null;
    this.resize = new ResizeObserver(([entry]) => {
      const width = Math.floor(entry.contentRect.width);
      if (width !== this.width) { this.width = width; this.later(); }
    });
    this.resize.observe(this.place);
  }

  /** Draw once, however often it is asked for. */
  later() {
    if (this.drawing !== null || this.width === 0 || !this.data) return;
    this.drawing = requestAnimationFrame(() => { this.drawing = null; this.draw(); });
  }

  x(ms) {
    const { from, until } = this.data;
    return LEFT + ((ms - from) / (until - from)) * (this.width - LEFT - RIGHT);
  }

  times(height) {
    const { from, until } = this.data;
    const step = this.width < 420 ? 5 : 3;
    const marks = [];
    for (let ms = Math.ceil(from / (step * MINUTE_MS)) * step * MINUTE_MS; ms <= until; ms += step * MINUTE_MS) {
      if (this.x(ms) < LEFT + 14 || this.x(ms) > this.width - RIGHT - 14) continue;
      marks.push(svg("line", { class: "rule", x1: this.x(ms), x2: this.x(ms), y1: TOP, y2: height - BOTTOM }),
        text(this.x(ms), height - 7, clock(ms, false), "middle"));
    }
    return marks;
  }
}

function text(x, y, words, anchor = "end") {
  const made = svg("text", { x, y, "text-anchor": anchor, class: "tick" });
  made.textContent = words;
  return made;
}

/** Lines over time. `unit` stands at the axis; `most`: the axis ends there; `says(value)` writes a value. */
export class Lines extends Plot {
  constructor(title, { about = "", unit = "", most = null, says = short, rounds = round } = {}) {
    super(title, about);
    Object.assign(this, { unit, most, says, rounds });
    this.at = null; // the index that is looked at; null: the newest
    this.legend = el("ul", { class: "legend" });
    this.time = el("span", { class: "small faint when" });
    this.rows = el("tbody", {});
    this.titles = el("tr", {});
    this.svg = svg("svg", { role: "slider", tabindex: "0", "aria-label": `${title}, ${unit}: move through time with the arrow keys`, "aria-valuemin": "0", height: HEIGHT });
    this.place.append(this.svg);
    this.table = el("details", {}, el("summary", { class: "small" }, "As a table"), el("div", { class: "scroll" }, el("table", { class: "small" }, el("thead", {}, this.titles), this.rows)));
    this.table.addEventListener("toggle", () => this.tabulate());
    this.root.append(el("div", { class: "reading" }, this.time, this.legend), this.table);
    this.listen();
  }

  listen() {
    const to = (event) => {
      if (!this.data?.at.length) return;
      const box = this.svg.getBoundingClientRect();
      const ms = this.data.from + ((event.clientX - box.left - LEFT) / (this.width - LEFT - RIGHT)) * (this.data.until - this.data.from);
      this.look(nearest(this.data.at, ms));
    };
    this.svg.addEventListener("pointermove", to);
    this.svg.addEventListener("pointerdown", to);
    this.svg.addEventListener("pointerleave", () => this.look(null));
    this.svg.addEventListener("blur", () => this.look(null));
    this.svg.addEventListener("keydown", (event) => {
      const count = this.data?.at.length ?? 0;
      if (count === 0) return;
      const here = this.at ?? count - 1;
      const next = { ArrowLeft: here - 1, ArrowDown: here - 1, ArrowRight: here + 1, ArrowUp: here + 1, PageUp: here + 30, PageDown: here - 30, Home: 0, End: count - 1 }[event.key];
      if (next === undefined) { if (event.key === "Escape") this.look(null); return; }
      event.preventDefault();
      this.look(Math.min(count - 1, Math.max(0, next)));
    });
  }

  look(index) {
    this.at = index;
    this.later();
  }

  /** `data`: {from, until, at: [ms], series: [[label, values]]}. */
  show(data) {
    const looked = this.at === null ? null : this.data?.at[this.at];
    this.data = data;
    if (looked !== null && looked !== undefined) this.at = data.at.length ? nearest(data.at, looked) : null;
    this.later();
    this.tabulate();
  }

  draw() {
    const { at, series } = this.data;
    const lines = series.slice(0, LINES_MAX);
    const top = this.most ?? this.rounds(Math.max(0, ...lines.flatMap(([, values]) => values.filter((one) => one !== null))));
    const y = (value) => HEIGHT - BOTTOM - (Math.min(value, top) / top) * (HEIGHT - TOP - BOTTOM);
    const parts = [];
    const count = TOPS_S.includes(top) && this.rounds === roundTime ? 4 : ticks(top);
    for (let tick = 0; tick <= count; tick += 1) {
      const value = (top * tick) / count;
      parts.push(svg("line", { class: tick === 0 ? "axis" : "rule", x1: LEFT, x2: this.width - RIGHT, y1: y(value), y2: y(value) }), text(LEFT - 6, y(value) + 4, this.says(value)));
    }
    parts.push(...this.times(HEIGHT));
    lines.forEach(([, values], index) => parts.push(svg("path", { class: `line c${index}`, d: path(at, values, (ms) => this.x(ms), y) })));
    const index = this.at ?? at.length - 1;
    if (index >= 0 && this.at !== null) {
      parts.push(svg("line", { class: "cursor", x1: this.x(at[index]), x2: this.x(at[index]), y1: TOP, y2: HEIGHT - BOTTOM }));
      lines.forEach(([, values], number) => { if (values[index] !== null) parts.push(svg("circle", { class: `dot c${number}`, cx: this.x(at[index]), cy: y(values[index]), r: 3.5 })); });
    }
    this.svg.setAttribute("width", this.width);
    this.svg.setAttribute("viewBox", `0 0 ${this.width} ${HEIGHT}`);
    this.svg.replaceChildren(...parts);
    this.read(index);
  }

  read(index) {
    const { at, series } = this.data;
    const has = index >= 0;
    const values = series.map(([label, all]) => [label, has ? all[index] : null]);
    fill(this.time, !has ? "Nothing was read yet." : this.at === null ? `Now, ${this.unit}` : `${clock(at[index])}, ${this.unit}`);
    fill(this.legend, values.slice(0, LINES_MAX).map(([label, value], number) => el("li", {},
      key(number), el("span", { dir: "auto" }, shown(label)), " ", el("strong", {}, this.says(value)))),
      values.length > LINES_MAX ? el("li", { class: "faint" }, `and ${values.length - LINES_MAX} more in the table`) : null);
    this.svg.setAttribute("aria-valuemax", String(Math.max(0, at.length - 1)));
    this.svg.setAttribute("aria-valuenow", String(Math.max(0, index)));
    this.svg.setAttribute("aria-valuetext", has ? `${clock(at[index])}: ${values.map(([label, value]) => `${label} ${value === null ? "not known" : this.says(value)}`).join(", ") || "nothing"}` : "Nothing was read yet.");
  }

  /** The last value of each minute, the newest first, while the table is open. */
  tabulate() {
    if (!this.table.open || !this.data) return;
    const { at, series } = this.data;
    const last = new Map();
    at.forEach((ms, index) => last.set(Math.floor(ms / MINUTE_MS), index));
    fill(this.titles, el("th", { scope: "col" }, "Time"), series.map(([label]) => el("th", { scope: "col", dir: "auto" }, shown(label))));
    fill(this.rows, [...last.values()].reverse().slice(0, ROWS_MAX).map((index) => el("tr", {}, el("th", { scope: "row" }, clock(at[index])), series.map(([, values]) => el("td", {}, this.says(values[index]))))));
  }
}

function key(number) {
  return svg("svg", { class: "key", width: 22, height: 10, "aria-hidden": "true" }, svg("line", { class: `line c${number}`, x1: 1, x2: 21, y1: 5, y2: 5 }));
}

function nearest(at, ms) {
  let low = 0;
  let high = at.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (at[middle] < ms) low = middle + 1;
    else high = middle;
  }
  return low > 0 && ms - at[low - 1] < at[low] - ms ? low - 1 : low;
}

/** A path that is interrupted where nobody knows. */
function path(at, values, x, y) {
  let pen = "M";
  let d = "";
  values.forEach((value, index) => {
    if (value === null) { pen = "M"; return; }
    d += `${pen}${x(at[index]).toFixed(1)} ${y(value).toFixed(1)}`;
    pen = "L";
  });
  return d;
}

/** From when until when something held. Words for it stand in the list beneath, which is the table of this one. */
export class Timeline extends Plot {
  constructor(title, { about = "", empty = "Nothing." } = {}) {
    super(title, about);
    this.empty = empty;
    this.list = el("ul", { class: "spans small" });
    this.root.append(this.list);
    this.written = "";
  }

  /** `data`: {from, until, spans: [{from, until, kind, label: () => nodes, words}]}. */
  show(data) {
    this.data = data;
    this.later();
    const now = JSON.stringify(data.spans.map((one) => one.words));
    if (now === this.written) return;
    this.written = now;
    const rows = data.spans.slice(0, SPANS_MAX);
    fill(this.list, rows.map((one, number) => el("li", {}, el("span", { class: "number" }, String(number + 1)), one.label())),
      data.spans.length > SPANS_MAX ? el("li", { class: "faint" }, `and ${data.spans.length - SPANS_MAX} more`) : null);
  }

  draw() {
    const rows = this.data.spans.slice(0, SPANS_MAX);
    if (rows.length === 0) { fill(this.place, el("p", { class: "faint" }, this.empty)); return; }
    const height = TOP + rows.length * SPAN_HEIGHT + BOTTOM;
    const parts = [...this.times(height)];
    rows.forEach((one, number) => {
      const from = Math.max(this.x(one.from), LEFT);
      const until = Math.min(this.x(one.until ?? this.data.until), this.width - RIGHT);
      const y = TOP + number * SPAN_HEIGHT;
      parts.push(text(LEFT - 10, y + 15, String(number + 1)), svg("rect", { class: `span ${one.kind}`, x: from, y: y + 3, width: Math.max(2, until - from), height: SPAN_HEIGHT - 6, rx: 3 }));
    });
    fill(this.place, svg("svg", { width: this.width, height, viewBox: `0 0 ${this.width} ${height}`, "aria-hidden": "true" }, ...parts));
  }
}
