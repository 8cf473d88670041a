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

const TIMEOUT_MS = 20_000;

export async function call(method, path, { query, body, headers, signal } = {}) {
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
      signal: signal ?? AbortSignal.timeout(TIMEOUT_MS),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("No answer came from the server; look again before you try again.", 0, "unreachable");
  }
  const type = response.headers.get("Content-Type") ?? "";
  const document = type.includes("json") ? await response.json().catch(() => null) : null;
  if (response.ok) return document;
  if (response.status === 401 && path !== "/api/login") for (const listener of listeners) listener();
  throw new Problem(document?.detail ?? document?.message ?? `The server answered ${response.status}.`, response.status, document?.code);
}

export const get = (path, query, signal) => call("GET", path, { query, signal });
export const post = (path, body = {}, headers = {}) => call("POST", path, { body, headers });

// As crypto.randomUUID, which browsers keep from pages without TLS.
export function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}
