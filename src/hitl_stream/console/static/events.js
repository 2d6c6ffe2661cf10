// How things stand, told by the server: one stream for all tabs of this browser.
//
// The tab that holds the lock listens, and passes on what it hears; when it is closed, another one gets the lock. Every
// event is the whole state, so whoever comes back knows everything at once.

const LOCK = "hitl-events";
const SILENT_MS = 15_000; // the server says something every ten seconds
const channel = new BroadcastChannel(LOCK);
const listeners = new Set();

let last = null;
let heard = 0;
let lost = false;

/** Call `listener(state, {lost})` with each new state: {switches, epoch, effective, missing, stale_s, queues, view}. */
export function onState(listener) {
  listeners.add(listener);
  if (last) listener(last, { lost });
  return () => listeners.delete(listener);
}

function tell(state) {
  last = state ?? last;
  for (const listener of listeners) listener(last, { lost });
}

function take(message) {
  if (message.ask) { if (leading && last) channel.postMessage({ state: last, lost }); return; }
  heard = Date.now();
  if (message.signedOut) { lost = true; tell(null); return; }
  lost = message.lost ?? false;
  tell(message.state ?? null);
}

let leading = false;
let ended = false;

function lead() {
  leading = true;
  const source = new EventSource("/events");
  const pass = (message) => { take(message); channel.postMessage(message); };
  source.addEventListener("state", (event) => pass({ state: JSON.parse(event.data) }));
  source.addEventListener("signed-out", () => { source.close(); pass({ signedOut: true }); ended = true; release(); });
  source.addEventListener("open", () => { heard = Date.now(); });
  source.addEventListener("error", () => {
    pass({ lost: true });
    // The browser comes back by itself, but not after an answer that is no stream, such as a proxy's 502.
    if (source.readyState === EventSource.CLOSED) setTimeout(() => { source.close(); release(); }, 2000);
  });
}

let release;

async function compete() {
  while (!ended) {
    await navigator.locks.request(LOCK, () => new Promise((resolve) => { release = resolve; lead(); }));
    leading = false;
  }
}

/** Begin to listen. */
export function listen() {
  channel.addEventListener("message", (event) => take(event.data));
  channel.postMessage({ ask: true });
  compete();
  setInterval(() => {
    if (!leading) return;
    channel.postMessage({ state: last, lost }); // so that other tabs know that somebody listens
  }, 5000);
  setInterval(() => {
    if (heard && !leading && Date.now() - heard > SILENT_MS && !lost) { lost = true; tell(null); }
  }, 1000);
}
