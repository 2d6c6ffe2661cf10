// Which items this tab has: one that another tab of the same browser shows, or is about to send, is not taken here.
//
// A lock of the browser stands for each item, and ends with the tab. So nobody judges an item twice by mistake in two
// tabs, and a tab that was copied with its storage does not send what the first one sends.

const held = new Map();

/** Take an item for this tab; false: another tab has it. */
export async function hold(item) {
  if (held.has(item)) return true;
  if (!navigator.locks) return true; // no secure context: the desk still counts one verdict only
  return new Promise((resolve) => {
    navigator.locks.request(`hitl-item-${item}`, { ifAvailable: true }, (lock) => {
      if (lock === null) { resolve(held.has(item)); return undefined; }
      return new Promise((release) => { held.set(item, release); resolve(true); });
    });
  });
}

/** Let another tab have it. */
export function letGo(item) {
  held.get(item)?.();
  held.delete(item);
}
