// The API, as the page uses it: JSON in and out, errors as sentences, one place that notices 401.

export class Problem extends Error {
  constructor(message, status, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

const listeners = new Set();
export const onUnauthorized = (listener) => listeners.add(listener);

// Addresses whose last question got no answer, or the one that nothing can be answered now.
const unanswered = new Map();
const AWAY = new Set([0, 502, 503, 504]);
const REMEMBERED_MS = 15_000; // the view that asked may be gone since
let onAway = () => {};

// listener(problem) whenever something becomes unanswered, or null once all is well.
export function onUnanswered(listener) {
  onAway = listener;
}

// Another view asks other questions: the old ones may never be asked again.
export function forgetUnanswered() {
  if (unanswered.size === 0) return;
  unanswered.clear();
  onAway(null);
}

function note(method, path, problem) {
  if (method !== "GET") return; // what was done by hand is told where it was done
  const before = unanswered.size;
  const now = Date.now();
  const reached = problem?.status !== 0;
  for (const [other, { problem: old, at }] of unanswered) {
    // An answer to any question ends what a lost connection left: some questions are asked once.
    if (now - at > REMEMBERED_MS || (reached && old.status === 0)) unanswered.delete(other);
  }
  if (problem && AWAY.has(problem.status)) unanswered.set(path, { problem, at: now });
  else unanswered.delete(path);
  if (unanswered.size !== before) onAway(unanswered.values().next().value?.problem ?? null);
}

const TIMEOUT_MS = 20_000;

export async function call(method, path, { query, body, headers, signal, timeoutMs = TIMEOUT_MS } = {}) {
  const words = new URLSearchParams();
  for (const [name, value] of Object.entries(query ?? {})) {
    if (value !== null && value !== undefined && value !== "") words.set(name, value);
  }
  const address = words.size ? `${path}?${words}` : path;
  let response;
  try {
    response = await fetch(address, {
      method,
      headers: { Accept: "application/json", ...(body === undefined ? {} : { "Content-Type": "application/json" }), ...headers },
      body: body === undefined ? undefined : JSON.stringify(body),
      credentials: "same-origin",
      signal: signal ?? AbortSignal.timeout(timeoutMs),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    const problem = new Problem("No answer came from the server; look again before you try again.", 0, "unreachable");
    note(method, path, problem);
    throw problem;
  }
  const type = response.headers.get("Content-Type") ?? "";
  const document = type.includes("json") ? await response.json().catch(() => null) : null;
  const problem = response.ok ? null : new Problem(document?.detail ?? document?.message ?? `The server answered ${response.status}.`, response.status, document?.code);
  note(method, path, problem);
  if (problem === null) return document;
  if (response.status === 401 && path !== "/api/login") for (const listener of listeners) listener();
  throw problem;
}

export const get = (path, query, signal) => call("GET", path, { query, signal });
export const post = (path, body = {}, more = {}) => call("POST", path, { body, ...more });

// As crypto.randomUUID, which browsers keep from pages without TLS.
export function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}
