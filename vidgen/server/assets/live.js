// What happens, as it happens: one EventSource for the whole page, and polling where it cannot be.
//
// Over HTTP/1.1 a browser opens six connections to a host, for all tabs together. So a tab that is
// not looked at closes its stream, and of those in sight only a few may hold one: the others ask
// every few seconds.

const TYPES = [
  "created", "claimed", "postponed", "submitting", "submitted", "generated", "completed", "errored",
  "parked", "reattempted", "rerouted", "failed", "released", "cancel_requested", "cancelled", "answered", "retried", "progressed",
];
const STREAMS = 3; // of the six, over all windows in sight
const POLL_MS = 3000; // without a stream
const REFRESH_MS = 15_000; // with one: it tells of jobs, not of workers and money
const LOST_AFTER_MS = 2500; // a short break is nobody's business
const SLOT_MS = 10_000;
const MAX_WAIT_MS = 15_000;

const listeners = new Set();
let source = null;
let release = null; // gives back our slot among STREAMS
let lastSeq = null;
let running = false;
let generation = 0; // what was begun before a stop must not go on after it
let failures = 0;
let timers = [];
let lostTimer = null;
let onLost = () => {};

// listener({event}) for one event of a job, listener({refresh: true}) when it is time to look again.
export function listen(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

export function start(lost) {
  onLost = lost;
  running = true;
  if (!document.hidden) open();
}

export function stop() {
  running = false;
  close();
}

document.addEventListener("visibilitychange", () => {
  if (!running) return;
  close();
  if (document.hidden) return;
  tell({ refresh: true });
  open();
});
window.addEventListener("pagehide", close);
window.addEventListener("pageshow", (event) => {
  if (event.persisted && running) open();
});

function tell(news) {
  for (const listener of [...listeners]) listener(news);
}

function every(ms, action) {
  timers.push(setInterval(action, ms));
}

async function open() {
  close();
  const mine = generation;
  const slot = await takeSlot();
  if (mine !== generation) {
    slot?.();
    return;
  }
  if (slot === null) {
    every(POLL_MS, () => tell({ refresh: true }));
    every(SLOT_MS, open);
    return;
  }
  release = slot;
  connect(mine);
  every(REFRESH_MS, () => tell({ refresh: true }));
}

function close() {
  generation += 1;
  source?.close();
  source = null;
  release?.();
  release = null;
  for (const timer of timers) clearInterval(timer);
  timers = [];
  found();
}

function connect(mine) {
  source = new EventSource(lastSeq === null ? "/api/events" : `/api/events?after=${lastSeq}`);
  source.addEventListener("open", () => {
    // The first one tells what happens from now on: what was shown before may be older than that.
    if (failures > 0 || lastSeq === null) tell({ refresh: true });
    failures = 0;
    found();
  });
  for (const type of TYPES) source.addEventListener(type, received);
  source.addEventListener("error", () => {
    failures += 1;
    missing();
    if (source.readyState !== EventSource.CLOSED) return; // the browser tries again by itself
    source.close();
    const wait = Math.min(1000 * 2 ** Math.min(failures, 5), MAX_WAIT_MS);
    timers.push(setTimeout(() => mine === generation && connect(mine), wait));
    tell({ refresh: true }); // and if we are not let in any more, that says so
  });
}

function received(message) {
  let event;
  try {
    event = JSON.parse(message.data);
  } catch {
    return;
  }
  if (message.lastEventId) lastSeq = message.lastEventId;
  tell({ event });
}

function missing() {
  lostTimer ??= setTimeout(() => onLost(true), LOST_AFTER_MS);
}

function found() {
  clearTimeout(lostTimer);
  lostTimer = null;
  onLost(false);
}

// A function that gives the slot back, or null if all are taken. Web Locks end with their tab. A
// page without TLS has none; there the rule of hidden tabs must do.
async function takeSlot() {
  if (!navigator.locks) return () => {};
  for (let number = 1; number <= STREAMS; number += 1) {
    const taken = await new Promise((resolve) => {
      navigator.locks
        .request(`vidgen-live-${number}`, { ifAvailable: true }, (lock) => {
          if (lock === null) return resolve(null);
          return new Promise((done) => resolve(done));
        })
        .catch(() => resolve(() => {}));
    });
    if (taken !== null) return taken;
  }
  return null;
}
