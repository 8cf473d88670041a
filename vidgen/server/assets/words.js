// Numbers, times and what things mean, in words.

const LOCALE = undefined; // the reader's own

const whole = new Intl.NumberFormat(LOCALE);
const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto", style: "narrow" });
const exact = new Intl.DateTimeFormat(LOCALE, { dateStyle: "medium", timeStyle: "medium" });
const clock = new Intl.DateTimeFormat(LOCALE, { hour: "2-digit", minute: "2-digit" });
const day = new Intl.DateTimeFormat(LOCALE, { month: "short", day: "numeric" });

export const number = (value) => (value === null || value === undefined ? "–" : whole.format(value));

export function money(micros) {
  if (micros === null || micros === undefined) return "–";
  const dollars = micros / 1e6;
  const digits = dollars !== 0 && Math.abs(dollars) < 0.01 ? 4 : 2;
  return `$${dollars.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits })}`;
}

export function bytes(count) {
  if (count === null || count === undefined) return "–";
  const units = ["B", "kB", "MB", "GB"];
  let value = count;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined || Number.isNaN(seconds)) return "–";
  if (seconds < 0.95) return `${Math.max(0, Math.round(seconds * 100) * 10)} ms`;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const rounded = Math.round(seconds);
  if (rounded < 60) return `${rounded} s`;
  if (rounded < 3600) return `${Math.floor(rounded / 60)} min ${pad(rounded % 60)} s`;
  if (rounded < 86_400) return `${Math.floor(rounded / 3600)} h ${pad(Math.floor((rounded % 3600) / 60))} min`;
  return `${Math.floor(rounded / 86_400)} d ${Math.floor((rounded % 86_400) / 3600)} h`;
}

const pad = (value) => String(value).padStart(2, "0");

export function about(seconds) {
  if (seconds < 10) return "a few seconds";
  if (seconds < 50) return `about ${Math.ceil(seconds / 10) * 10} s`;
  if (seconds < 90) return "about a minute";
  if (seconds < 3600) return `about ${Math.round(seconds / 60)} min`;
  return `about ${Math.round(seconds / 360) / 10} h`;
}

export function ago(iso, now = Date.now()) {
  if (!iso) return "–";
  const seconds = (Date.parse(iso) - now) / 1000;
  const distance = Math.abs(seconds);
  if (distance < 5) return "just now";
  if (distance < 60) return relative.format(Math.round(seconds / 5) * 5, "second");
  if (distance < 3600) return relative.format(Math.round(seconds / 60), "minute");
  if (distance < 86_400) return relative.format(Math.round(seconds / 3600), "hour");
  return relative.format(Math.round(seconds / 86_400), "day");
}

export const exactly = (iso) => (iso ? exact.format(new Date(iso)) : "");
export const atClock = (iso) => clock.format(new Date(iso));
export const onDay = (iso) => day.format(new Date(iso));
export const short = (id) => (id ? String(id).slice(-12) : "–");
export const plural = (count, one, many = `${one}s`) => `${number(count)} ${count === 1 ? one : many}`;

// Of ours; /api/providers tells those of other packages, and until then a name with a capital will do.
const titles = new Map(Object.entries({
  sora: "Sora",
  veo: "Veo",
  omni: "Gemini Omni",
  runway: "Runway",
  replicate: "Replicate",
  luma: "Luma",
  fal: "fal",
  xai: "xAI",
  kling: "Kling",
  minimax: "MiniMax",
  seedance: "Seedance",
  wan: "Wan",
}));
export const nameProviders = (providers) => { for (const one of providers) titles.set(one.name, one.title); };
export const providerName = (name) => titles.get(name) ?? String(name).replace(/^./, (first) => first.toUpperCase());

const STAGES = { queued: "queued", submitting: "submitting", generating: "generating", transferring: "storing" };

// The public word, and for what is under way the inner one beside it.
export function state(job) {
  if (job.status === "pending" && job.due_at && Date.parse(job.due_at) > Date.now() + 1000) return "delayed";
  if (job.status === "processing") return job.cancel_requested_at ? "cancelling" : (STAGES[job.stage] ?? job.stage);
  return { pending: "waiting" }[job.status] ?? job.status;
}

export const tone = (job) => ({ pending: "idle", processing: "busy", completed: "good", failed: "bad", cancelled: "off" })[job.status] ?? "idle";

export const isFinal = (job) => ["completed", "failed", "cancelled"].includes(job.status);

// What all attempts will have cost: what is known, and the price of the one that is still to be settled.
export function cost(job) {
  if (isFinal(job) || job.stage === "transferring") return job.actual_cost_micros ?? job.estimated_cost_micros;
  return job.estimated_cost_micros === null ? job.actual_cost_micros : (job.actual_cost_micros ?? 0) + job.estimated_cost_micros;
}

// Of how many attempts only the provider knows what they cost.
export function unknownAttempts(job) {
  const before = job.unknown_attempts ?? 0;
  if (!["failed", "cancelled"].includes(job.status)) return before;
  const isOpen = { submitting: job.settled_attempt !== job.attempt, generating: job.settled_attempt !== job.attempt, transferring: job.actual_cost_micros === null }[job.stage];
  return before + (isOpen ? 1 : 0);
}

// As short as a column: paid, about to be paid, or known to the provider only.
export function costWord(job) {
  if (!isFinal(job)) return cost(job) === null ? ["–", "the catalog has no price for this model"] : [`~ ${money(cost(job))}`, job.actual_cost_micros ? "estimated, with what earlier attempts cost" : "estimated"];
  const known = job.actual_cost_micros;
  if (unknownAttempts(job)) return [known ? `${money(known)} + ?` : "–", `what was billed for ${plural(unknownAttempts(job), "attempt")} only the provider knows`];
  if (known === null) return job.attempt === 0 ? ["free", "nothing was accepted by the provider"] : ["–", "what was billed only the provider knows"];
  return [known === 0 ? "free" : money(known), "what all attempts cost"];
}

// How far the bar goes: what the provider tells, else where the clock is on the usual way; null if nobody knows.
export function percent(job, now = Date.now()) {
  if (job.stage === "transferring") return { value: 99, told: false };
  if (job.progress > 0) return { value: job.progress, told: true };
  const begun = Date.parse(job.submitted_at ?? job.started_at ?? job.created_at);
  const end = Date.parse(job.eta?.p50);
  if (Number.isNaN(end) || job.stage !== "generating") return { value: 0, told: false };
  return { value: Math.round(Math.max(0, Math.min(0.95, (now - begun) / Math.max(1, end - begun))) * 100), told: false };
}

// The provider's name for something without the long way to it.
export const tail = (id) => (String(id).includes("/") ? `…/${String(id).split("/").at(-1)}` : String(id));

export function eta(job, now = Date.now()) {
  if (isFinal(job) || !job.eta?.p50) return null;
  const seconds = Math.min((Date.parse(job.eta.p50) - now) / 1000, byProgress(job, now) ?? Infinity);
  return seconds <= 0 ? "any moment" : about(seconds);
}

// A rule of thumb gives way to what the provider itself tells, once that is more than a beginning.
function byProgress(job, now) {
  if (job.eta.basis === "history" || job.stage !== "generating" || !job.submitted_at || job.progress < 10) return null;
  return ((now - Date.parse(job.submitted_at)) / 1000) * ((100 - job.progress) / job.progress);
}

export function etaTitle(job) {
  if (!job.eta?.p50) return null;
  const basis = job.eta.basis === "history" ? `measured on ${plural(job.eta.samples, "video")} like it` : "a rule of thumb: no history yet";
  return `Half of such jobs are done by ${exactly(job.eta.p50)}, 9 of 10 by ${exactly(job.eta.p90)} (${basis})`;
}

// What each code means for the one who has to decide.
const CODES = {
  budget_exceeded: "A budget cannot bear another attempt. Retry once it frees, or raise it under Money.",
  price_unknown: "A budget is in force, and nobody knows what this would cost.",
  cost_ceiling: "Another attempt could cost more than the job may. Ask for it anew, with a higher ceiling.",
  provider_not_configured: "No key for this provider is set. Set it, then retry: nothing was paid.",
  provider_unavailable: "The provider did not answer until the deadline.",
  rate_limited: "The provider kept refusing for now until the deadline.",
  provider_protocol: "The provider's answers could not be read until the deadline.",
  quota_exhausted: "Money or the day's quota at the provider ran out. Top up there first.",
  provider_auth: "The key is wrong or has no right for this.",
  input_rejected: "The provider refuses this request as it stands; the same one will be refused again.",
  content_blocked: "Moderation blocked the prompt, an image or the result; the same one is likely to be blocked again.",
  generation_failed: "The provider's own verdict: this generation failed.",
  generation_timeout: "No verdict before the deadline. A retry looks at the same generation first.",
  result_not_ready: "The provider says it is finished, but did not hand the video out in time.",
  result_invalid: "What the provider handed out was no whole MP4.",
  result_expired: "The provider no longer has the video: a retry buys a new one.",
  operation_lost: "The provider no longer shows the generation it had accepted; it may be billed.",
  submit_unknown: "Nobody knows whether the paid request arrived. A retry may pay a second time.",
  model_retired: "The vendor switched this model off.",
  plugin_broken: "The package that brings this provider is missing, broken, or breaks when it is used. Mend it, then retry.",
  storage_unavailable: "The bucket did not answer until the deadline. The video is paid: a retry stores it.",
  storage_denied: "The bucket refuses our key. The video is paid: mend the right, then retry.",
  bucket_missing: "The bucket does not exist. The video is paid: create it, then retry.",
  key_unreadable: "Its stored provider key, or its prompt, does not open. It waits, and goes on once ENCRYPTION_KEYS is right.",
  internal_error: "A defect of vidgen; the log has the traceback.",
  invalid_request: "The request cannot be done as it stands.",
  unknown_model: "The catalog has no such model.",
  unknown_provider: "No provider has this name.",
};
export const codeMeans = (code) => CODES[code] ?? "No sentence is known for this code.";
export const codes = Object.keys(CODES).sort();

// One event as {title, more, tone, cost}.
export function told(event, job) {
  const detail = event.detail ?? {};
  const who = providerName(targetAt(event, job).provider);
  const wait = detail.wait_s ? `Next try in ${duration(detail.wait_s)}.` : null;
  switch (event.type) {
    case "created":
      return { title: "Accepted", more: `Checked against the catalog; nothing is spent yet.`, tone: "idle", cost: (job.targets?.[0] ?? job).estimated_cost_micros === null ? null : `estimated ${money((job.targets?.[0] ?? job).estimated_cost_micros)}` };
    case "claimed":
      return { title: "Taken by a worker", more: event.worker_id ? `Worker ${short(event.worker_id)}.` : null, tone: "idle" };
    case "postponed":
      return { title: postponed(detail.reason), more: detail.wait_s ? `For ${duration(detail.wait_s)}.` : null, tone: "idle" };
    case "submitting":
      return { title: `Paid request goes to ${who}`, more: `Attempt ${event.attempt}. Written down before it was sent.`, tone: "busy" };
    case "submitted":
      if (detail.returned) return { title: `${who} had accepted it after all`, more: `Back there with operation ${tail(detail.operation_id)}; nothing was sent to anybody else.`, tone: "busy" };
      return detail.adopted
        ? { title: `Found again at ${who}`, more: `Adopted ${tail(detail.operation_id)}; nothing was paid twice.`, tone: "busy" }
        : { title: `${who} accepted it`, more: `Operation ${tail(detail.operation_id)}`, tone: "busy" };
    case "generated":
      return { title: `${who} has finished the video`, more: null, tone: "busy" };
    case "completed":
      return { title: "Stored", more: `${bytes(detail.size_bytes)}, hash and length checked.`, tone: "good", cost: cost(job) === null ? null : `paid ${money(cost(job))}` };
    case "errored":
      return detail.absent
        ? { title: "The paid request never arrived", more: "Proven by the provider's list: the same attempt may be made again.", tone: "warn" }
        : { title: detail.message ?? codeMeans(detail.code), more: wait, tone: "warn", code: detail.code };
    case "parked":
      return { title: "Waits: its provider key or prompt does not open", more: [detail.message, detail.wait_s ? `Next try in ${duration(detail.wait_s)}; nothing is counted meanwhile.` : null].filter(Boolean).join(" "), tone: "warn", code: detail.code };
    case "reattempted":
      return { title: "Another attempt follows", more: [detail.message, wait].filter(Boolean).join(" "), tone: "warn", code: detail.code, cost: detail.may_be_paid_twice ? "may be paid twice" : null };
    case "rerouted":
      return { title: `Moves on from ${place(detail.from)} to ${place(detail.to)}`, more: [`${rerouted(detail.reason)}.`, detail.message, skippedWords(detail)].filter(Boolean).join(" "), tone: "warn", code: detail.reason, cost: detail.cost_micros ? `paid so far ${money(detail.cost_micros)}` : null };
    case "overtaken":
      return { title: `${providerName(detail.provider)} answered after the job had moved on`, more: `Operation ${tail(detail.operation_id)}: what it makes may be billed, and nobody waits for it.`, tone: "bad", cost: "may be paid twice" };
    case "failed":
      return { title: "Failed", more: [detail.message, skippedWords(detail)].filter(Boolean).join(" "), tone: "bad", code: detail.code, cost: paidWord(detail) };
    case "released":
      return { title: "Given back", more: released(detail.reason), tone: "idle" };
    case "cancel_requested":
      return { title: "Cancel asked for", more: [event.stage === "submitting" ? `The paid request is on its way: the job ends once ${who} answers it, and that may be billed.` : null, detail.discard ? "A finished video is not wanted either." : "A finished video is kept."].filter(Boolean).join(" "), tone: "off" };
    case "cancelled":
      return { title: "Cancelled", more: cancelledWords(detail, who, event), tone: "off", cost: paidWord(detail) };
    case "answered":
      return { title: `${who} answered the cancel`, more: cancelledWords(detail, who, event), tone: "off", cost: paidWord(detail) };
    case "retried":
      return { title: "Retried by hand", more: detail.pays_again ? "A new video is bought." : "Goes on with what is paid already.", tone: "busy" };
    default:
      return { title: event.type, more: null, tone: "idle" };
  }
}

// Whose an event is: a job may have moved on since.
function targetAt(event, job) {
  let at = job.targets?.[0] ?? job;
  for (const one of job.events ?? []) {
    if (one.seq > event.seq) break;
    if (one.type === "rerouted") at = one.seq === event.seq ? (one.detail.from ?? at) : (one.detail.to ?? at);
    else if (one.type === "submitted" && one.detail?.returned) at = one.detail.target ?? at;
    else if (one.type === "retried" && one.detail?.pays_again) at = job.targets?.[0] ?? job;
  }
  return at;
}

const place = (target) => `${providerName(target?.provider)} (${target?.model})`;

function rerouted(reason) {
  const words = {
    refused: "It refused several times in a row, before it accepted anything",
    down: "It does not answer and is left alone for a while",
    retired: "The model is switched off",
    quota: "Money or the day's quota ran out there",
    auth: "It refuses the server's key",
    unconfigured: "There is no key for it",
    absent: "The paid request provably never arrived",
    failed: "It failed, and charges nothing for that",
    policy: "Its moderation blocked it",
    rejected: "It refuses the request as it stands",
    charged: "It failed, and charges for that",
    budget: "No budget bears another attempt there",
    ceiling: "Another attempt there could cost more than the job may",
  };
  return words[reason] ?? String(reason);
}

function skippedWords(detail) {
  const skipped = detail.skipped ?? [];
  return skipped.length ? `Passed over: ${skipped.map((one) => `${place(one)}, ${one.reason}`).join("; ")}.` : null;
}

function postponed(reason) {
  const words = {
    rate_limit: "Waits for its turn under the rate limit",
    user_limit: "Waits for another video of its user to end",
    provider_down: "Waits: the provider is left alone for a while",
    paused: "Waits: the provider is paused",
  };
  return words[reason] ?? `Waits (${reason ?? "no reason told"})`;
}

function released(reason) {
  const words = {
    left: "Its worker let go of it; a peer goes on.",
    hand_over: "Its worker is shutting down; a peer goes on.",
    worker_lost: "Its worker was lost; a peer goes on.",
    forgotten: "Its worker had lost track of it; a peer goes on.",
  };
  return words[reason] ?? "A peer goes on.";
}

const paidWord = (detail) => (detail.cost_micros === 0 ? "free" : detail.cost_micros ? `paid ${money(detail.cost_micros)}` : null);

function cancelledWords(detail, who, event) {
  if (event.stage === "queued") return event.attempt === 0 ? "Before anything was sent." : "Before the next attempt was sent.";
  if (detail.still_asking) return `${who} has not answered yet and is being asked on; until then only ${who} knows what it bills.`;
  if (detail.stopped_at_provider === null) return `Whether ${who} stopped it, and what it bills, only ${who} knows.`;
  if (event.stage === "transferring") return "The video was made already, so it is paid.";
  if (detail.stopped_at_provider) return `${who} stopped it; what it bills only ${who} knows.`;
  return `${who} could not be stopped, so it is counted as paid.`;
}
