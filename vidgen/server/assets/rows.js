// One line per job, made once and then only touched where it differs.

import { attr, h, put, reconcile, show } from "./dom.js";
import { ago, costWord, duration, eta, etaTitle, exactly, isFinal, percent, short, state, tone } from "./words.js";

export function time(iso) {
  return h("time", { datetime: iso, title: exactly(iso), data: { ago: "" } }, ago(iso));
}

export function head() {
  const names = ["Status", "Video", "Model", "Progress"];
  return h("div.jobs-head", { aria: { hidden: "true" } }, names.map((name) => h("span", null, name)), h("span.number", null, "Cost"), h("span.number", null, "Created"));
}

// Draws `jobs` into `list`. Arrow keys walk from row to row.
export function draw(list, jobs) {
  reconcile(list, jobs, (job) => job.id, make, update);
}

export function walk(list) {
  list.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const row = event.target.closest("li");
    if (!step || !row || event.altKey || event.ctrlKey || event.metaKey) return;
    const next = step > 0 ? row.nextElementSibling : row.previousElementSibling;
    if (!next) return;
    event.preventDefault();
    next.querySelector("a.open")?.focus();
  });
}

// What an event tells about a job that is shown already; true if the job ended by it or changed hands.
export function apply(job, event) {
  const seen = `${job.status} ${job.stage}`;
  if (event.progress !== undefined) job.progress = event.progress;
  if (event.type === undefined || event.type === "progressed") return false;
  if (event.stage === "transferring" && job.stage !== event.stage) job.eta = null; // it was about the generation
  Object.assign(job, { status: event.status, stage: event.stage, attempt: event.attempt });
  if (isFinal(job)) {
    job.eta = null;
    job.queue_position = null;
    job.completed_at ??= event.at;
    job.error_code = event.detail?.code ?? null;
  }
  return seen !== `${job.status} ${job.stage}`;
}

function make(job) {
  const row = h("li.row");
  const parts = {
    state: h("span.status"),
    open: h("a.open.line", { href: `#/jobs/${job.id}` }),
    sub: h("span.line.sub"),
    model: h("span.line"),
    note: h("span.line.sub"),
    bar: h("progress", { max: 100, aria: { label: "Progress" } }),
    word: h("span.line.sub"),
    cost: h("span.number.cost"),
    when: h("span.number.when.muted"),
  };
  row.parts = parts;
  row.append(
    h("div.state", null, parts.state),
    h("div.what", null, parts.open, parts.sub),
    h("div.model", null, parts.model, parts.note),
    h("div.run", null, parts.bar, parts.word),
    parts.cost,
    parts.when,
  );
  parts.when.append(time(job.created_at));
  return row;
}

function update(row, job) {
  const { parts } = row;
  attr(parts.state, "class", `status ${tone(job)}`);
  put(parts.state, state(job));
  put(parts.open, job.prompt || `(prompt no longer kept) ${short(job.id)}`);
  put(parts.sub, [short(job.id), job.scene_id && `scene ${job.scene_id}`, job.user_id && `user ${job.user_id}`].filter(Boolean).join(" · "));
  put(parts.model, job.model);
  put(parts.note, job.attempt > 1 ? `attempt ${job.attempt} of ${job.max_attempts}` : job.provider);
  show(parts.bar, job.status === "processing");
  bar(parts.bar, job);
  put(parts.word, runs(job));
  attr(parts.word, "title", etaTitle(job));
  const [words, meaning] = costWord(job);
  put(parts.cost, words);
  attr(parts.cost, "title", meaning);
}

export function bar(node, job) {
  const { value, told } = percent(job);
  // Never backwards within an attempt: the usual way changes while others end.
  const kept = !told && node.dataset.attempt === String(job.attempt) ? Math.max(value, node.value) : value;
  if (node.value !== kept || !node.hasAttribute("value")) node.value = kept;
  attr(node, "data-attempt", job.attempt);
  attr(node, "title", told || job.status !== "processing" ? null : "The provider does not tell how far it is; the bar follows the usual time");
  attr(node, "aria-valuetext", told ? `${value} %, ${state(job)}` : state(job));
}

export const percentWord = (job) => (percent(job).told ? `${job.progress} %` : null);

function runs(job) {
  switch (job.status) {
    case "processing":
      return [percentWord(job), eta(job)].filter(Boolean).join(" · ") || state(job);
    case "pending":
      return [job.queue_position && `place ${job.queue_position}`, eta(job)].filter(Boolean).join(" · ") || "in line";
    case "completed":
      return `in ${duration((Date.parse(job.completed_at) - Date.parse(job.created_at)) / 1000)}`;
    case "failed":
      return job.error_code;
    default:
      return "";
  }
}
