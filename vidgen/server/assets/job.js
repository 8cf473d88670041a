// One job: the video or how far it is, what happened, what it is, what can be done about it.

import { get, post } from "./api.js";
import { attr, button, h, icon, put, reconcile, show, swap, toast } from "./dom.js";
import { apply, bar, percentWord, time } from "./rows.js";
import { about, bytes, codeMeans, duration, eta, etaTitle, exactly, isFinal, money, plural, providerName, short, state, tail, told, tone, unknownAttempts } from "./words.js";
import { askCancel, askRetry } from "./decide.js";

export const name = "job";
export const title = (entry) => `Job ${short(entry.id)}`;

const LOOK_AT_MOST_EVERY_MS = 700;
// Deliveries tell nothing live: looked at again when their next try is over, within these.
const DELIVERY_SOON_MS = 1500;
const DELIVERY_LATE_MS = 15_000;

export function mount(root, context) {
  let job = null;
  let timer = null;
  let later = null;
  let gone = false;

  const pill = h("span.status.pill", { hidden: true });
  const actions = h("div.actions");
  const error = h("div", { role: "alert" });
  const stage = h("div.stage");
  const screen = h("div.panel", null, stage);
  const reason = h("div", { role: "status" });
  const prompt = h("p.prompt");
  const timeline = h("ol.timeline", { aria: { label: "What happened" } });
  const span = h("span.muted");
  const facts = h("dl.facts");
  const parameters = h("dl.facts");
  const deliveries = h("section.panel", { hidden: true, aria: { label: "Webhook deliveries" } });
  const metadata = h("section.panel", { hidden: true, aria: { label: "Metadata" } });

  const body = h(
    "div.job",
    { hidden: true },
    h("div.job-main", null, screen, reason, h("section.panel", { aria: { label: "Timeline" } }, h("div.section-head", null, h("h2", null, "Timeline"), span), timeline), deliveries),
    h("div.job-side", null, panel("Prompt", prompt), panel("Parameters", parameters), panel("Facts", facts), metadata),
  );
  root.append(
    h("div.head", null, h("a.button.ghost.bare", { href: "#/jobs", title: "All jobs", aria: { label: "All jobs" } }, icon("back")), context.heading, copy(context.id, "Copy the whole id"), pill, actions),
    error,
    body,
  );
  look();

  async function look() {
    timer = null;
    try {
      const answer = await get(`/api/jobs/${context.id}`);
      if (gone) return;
      job = answer;
      swap(error);
      draw();
      followDeliveries();
    } catch (problem) {
      if (gone || job) return; // what is shown still holds
      swap(error, h("div.empty", null, h("p.empty-title", null, problem.status === 404 ? "There is no such job" : "The job cannot be shown"), h("p", null, problem.status === 404 ? "Failed and cancelled ones are deleted after a while." : problem.message)));
    }
  }

  function draw() {
    show(body, true);
    drawState();
    drawActions();
    drawStage();
    drawReason();
    put(prompt, job.prompt === null ? "Sealed, and does not open with the ENCRYPTION_KEYS here." : job.prompt || "No longer kept.");
    attr(prompt, "tabindex", prompt.scrollHeight > prompt.clientHeight + 1 ? "0" : null); // scrolls by keyboard
    reconcile(timeline, job.events, (event) => event.seq, () => entry(), (node, event) => drawEvent(node, event));
    const last = job.events.at(-1);
    put(span, last ? `${plural(job.events.length, "event")} in ${duration((Date.parse(last.at) - Date.parse(job.created_at)) / 1000)}` : "");
    define(facts, factsOf(job));
    define(parameters, parametersOf(job));
    const extra = job.metadata && Object.keys(job.metadata).length > 0;
    show(metadata, Boolean(extra));
    if (extra && !metadata.firstChild) metadata.append(h("div.section-head", null, h("h2", null, "Metadata")), h("pre", { tabindex: "0" }, JSON.stringify(job.metadata, null, 2)));
    drawDeliveries();
  }

  function drawState() {
    show(pill, true);
    attr(pill, "class", `status pill ${tone(job)}`);
    put(pill, state(job));
  }

  // Only what differs: a button that has the focus stays the same button.
  function drawActions() {
    const wanted = [];
    if (job.storage_key && !job.archived_at && !job.gone_at) wanted.push("download");
    // Asked for once it may be asked for again, to have a finished video discarded, too.
    if (context.acts && !isFinal(job) && !(job.cancel_requested_at && job.cancel_discards)) wanted.push("cancel");
    if (context.acts && job.retry) wanted.push("retry");
    if (context.acts && job.prompt && isFinal(job)) wanted.push("again");
    reconcile(actions, wanted, (one) => one, makeAction, () => {});
  }

  function makeAction(one) {
    switch (one) {
      case "download":
        return h("a.button", { href: `/api/jobs/${context.id}/result?download=1`, download: "" }, icon("download"), h("span", null, "Download"));
      case "cancel":
        return button("Cancel …", { glyph: "stop", onclick: () => askCancel(job, done) });
      case "retry":
        return button("Retry …", { kind: "primary", glyph: "retry", onclick: () => askRetry(job, done) });
      default:
        return h("a.button", { href: `#/new?like=${context.id}` }, icon("plus"), h("span", null, "One like it"));
    }
  }

  function done(words) {
    toast(words);
    look();
    context.askQueue();
  }

  function drawStage() {
    const kind = job.status === "completed" && job.storage_key && !job.archived_at && !job.gone_at ? "video" : isFinal(job) ? "ended" : "live";
    if (stage.dataset.kind !== kind) {
      stage.dataset.kind = kind;
      stage.parts = null;
      if (kind === "video") swap(stage, video());
      else if (kind === "live") stage.parts = liveParts();
      else swap(stage);
    }
    show(screen, kind !== "ended"); // the reason below says all there is
    attr(stage, "class", `stage${kind === "video" && job.height > job.width ? " upright" : ""}`);
    if (kind === "live") drawLive();
  }

  function cancelledCost() {
    if (job.actual_cost_micros === 0) return "It cost nothing.";
    if (!job.actual_cost_micros) return "What it cost only the provider knows.";
    return unknownAttempts(job) ? `It is counted as ${money(job.actual_cost_micros)}; what else was billed only the provider knows.` : `It is counted as ${money(job.actual_cost_micros)}.`;
  }

  function video() {
    return h("video", {
      src: `/api/jobs/${context.id}/result`,
      poster: job.thumbnail_key ? `/api/jobs/${context.id}/result?variant=thumbnail` : null,
      controls: true,
      playsinline: true,
      preload: "metadata",
      width: job.width,
      height: job.height,
      aria: { label: "The generated video" },
    });
  }

  function liveParts() {
    const parts = { value: h("p.value"), bar: h("progress", { max: 100, aria: { label: "Progress" } }), more: h("p.muted") };
    swap(stage, h("div.big", null, parts.value, parts.bar, parts.more));
    return parts;
  }

  function drawLive() {
    const { parts } = stage;
    const left = eta(job);
    put(parts.value, job.status === "pending" ? waits() : (percentWord(job) ?? (job.cancel_requested_at ? "Cancelling" : { queued: "Starting", submitting: "Sending", generating: "Generating", transferring: "Storing" }[job.stage])));
    show(parts.bar, job.status !== "pending");
    bar(parts.bar, job);
    put(parts.more, [word(), left && (left === "any moment" ? "ready any moment" : `ready in ${left}`)].filter(Boolean).join(" · "));
    attr(parts.more, "title", etaTitle(job));
  }

  function waits() {
    const due = job.due_at ? (Date.parse(job.due_at) - Date.now()) / 1000 : 0;
    if (due > 2) return `Starts in ${about(due)}`;
    return job.queue_position ? `Number ${job.queue_position} in line` : "In line";
  }

  function word() {
    const who = providerName(job.provider);
    if (job.cancel_requested_at) return job.stage === "submitting" ? `ends once ${who} answers the paid request, which may be billed` : "the cancel is on its way";
    if (job.status === "pending") return job.error_code ? `waits after ${job.error_code}` : null;
    return { queued: "about to be sent", submitting: `being sent to ${who}`, generating: `${who} is making it`, transferring: "moving into storage" }[job.stage];
  }

  function drawReason() {
    const words = `${job.status} ${job.error_code} ${job.error_message} ${job.actual_cost_micros} ${job.gone_at}`;
    if (reason.dataset.words === words) return;
    reason.dataset.words = words;
    show(reason, true);
    if (job.status === "cancelled") swap(reason, banner("off", "stop", "Cancelled", cancelledCost()));
    else if (job.status === "failed") swap(reason, banner("bad", "failed", job.error_code, job.error_message, codeMeans(job.error_code)));
    else if (job.error_message && !isFinal(job)) swap(reason, banner("", "retry", job.error_code, job.error_message, "It goes on by itself."));
    else if (job.gone_at && !job.archived_at) swap(reason, banner("off", "stop", "Gone", "The video is not in the bucket any more."));
    else show(reason, false);
  }

  function banner(kind, glyph, title, ...lines) {
    return h("div.banner", { class: kind }, icon(glyph), h("div", null, h("p", null, h("strong", null, title)), lines.map((line) => h("p", null, line))));
  }

  // --- timeline ---

  function entry() {
    const parts = { dot: h("span.dot"), title: h("span.title"), tags: h("span"), more: h("p.more"), when: h("div.when") };
    const node = h("li", null, parts.dot, h("div", null, parts.title, " ", parts.tags, parts.more), parts.when);
    node.parts = parts;
    return node;
  }

  function drawEvent(node, event) {
    const { parts } = node;
    const words = told(event, job);
    attr(parts.dot, "class", `dot ${words.tone}`);
    put(parts.title, words.title);
    put(parts.more, words.more);
    show(parts.more, Boolean(words.more));
    const tags = [words.code, event.by && `by ${event.by}`, words.cost].filter(Boolean);
    attr(node, "title", event.worker_id ? `Written by worker ${event.worker_id}` : null);
    if (node.dataset.tags !== tags.join("|")) {
      node.dataset.tags = tags.join("|");
      swap(parts.tags, tags.map((tag) => [h("span.tag", { class: tag === words.cost ? "money" : "" }, tag), " "]));
    }
    if (!parts.when.firstChild) {
      const index = job.events.indexOf(event);
      const before = index > 0 ? (Date.parse(event.at) - Date.parse(job.events[index - 1].at)) / 1000 : null;
      parts.when.append(before === null ? "" : h("span.gap", { title: exactly(event.at) }, `+ ${duration(before)}`), time(event.at));
    }
  }

  // --- webhooks ---

  function drawDeliveries() {
    const some = job.deliveries;
    show(deliveries, some.length > 0);
    if (some.length === 0) return;
    if (!deliveries.firstChild) {
      deliveries.append(h("div.section-head", null, h("h2", null, "Webhook deliveries")), h("div.scroll", { tabindex: "0", role: "region", aria: { label: "Webhook deliveries" } }, h("table", null, h("thead", null, h("tr", null, ["Event", "State", "Tries", "Last answer", "When"].map((words) => h(`th${words === "Tries" ? ".number" : ""}`, { scope: "col" }, words)), h("th", null, h("span.visually-hidden", null, "Send again")))), h("tbody"))));
    }
    reconcile(deliveries.querySelector("tbody"), some, (one) => one.id, makeDelivery, drawDelivery);
  }

  function makeDelivery(one) {
    const parts = { event: h("td"), state: h("span.status"), tries: h("td.number"), answer: h("td.wrap.muted"), when: h("td.muted"), act: h("td.number") };
    const row = h("tr", null, parts.event, h("td", null, parts.state), parts.tries, parts.answer, parts.when, parts.act);
    row.parts = parts;
    if (context.acts) {
      parts.replay = button("Replay", { kind: "small", glyph: "retry", onclick: () => replay(one.id) });
      parts.act.append(parts.replay);
    }
    return row;
  }

  function drawDelivery(row, one) {
    const { parts } = row;
    put(parts.event, one.type);
    attr(parts.state, "class", `status ${{ delivered: "good", pending: "busy", failed: "bad", gone: "off" }[one.state] ?? "idle"}`);
    put(parts.state, one.state);
    put(parts.tries, String(one.attempts));
    put(parts.answer, [one.last_status, one.last_error].filter(Boolean).join(" ") || "–");
    // Once it has ended: all over again. Before: now, instead of at its time.
    if (parts.replay) put(parts.replay.querySelector("span"), one.state === "pending" ? "Try now" : "Replay");
    const [words, at] = whenOf(one);
    if (parts.when.dataset.at !== `${words} ${at}`) {
      parts.when.dataset.at = `${words} ${at}`;
      swap(parts.when, words, at && time(at));
    }
  }

  function whenOf(one) {
    if (one.state === "delivered") return ["", one.delivered_at];
    if (one.state !== "pending") return ["made ", one.created_at];
    return Date.parse(one.next_at) - Date.now() < 5000 ? ["due now", null] : ["next try ", one.next_at];
  }

  function followDeliveries() {
    clearTimeout(later);
    const next = job.deliveries.filter((one) => one.state === "pending").map((one) => Date.parse(one.next_at) - Date.now());
    if (next.length > 0) later = setTimeout(look, Math.min(Math.max(Math.min(...next), DELIVERY_SOON_MS), DELIVERY_LATE_MS));
  }

  async function replay(id) {
    try {
      await post(`/api/deliveries/${id}/replay`);
      done("It is sent now, under the same id.");
    } catch (problem) {
      toast(problem.message, "bad");
    }
  }

  function soon() {
    timer ??= setTimeout(look, LOOK_AT_MOST_EVERY_MS);
  }

  return {
    refresh: () => (job === null || !isFinal(job) || job.deliveries.some((one) => one.state === "pending") ? soon() : null),
    tick: () => job && !isFinal(job) && stage.parts && drawLive(),
    event(event) {
      if (event.job_id !== context.id || !job) return;
      apply(job, event);
      // A video is shown, and what can be done offered, once the whole answer is there.
      if (isFinal(job)) return soon();
      drawState();
      drawStage();
      if (event.type !== undefined && event.type !== "progressed") soon();
    },
    unmount() {
      gone = true;
      clearTimeout(timer);
      clearTimeout(later);
      stage.querySelector("video")?.pause();
    },
  };
}

function panel(heading, content) {
  return h("section.panel", { aria: { label: heading } }, h("div.section-head", null, h("h2", null, heading)), content);
}

function define(list, pairs) {
  const kept = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  const words = JSON.stringify(kept.map(([key, value]) => [key, value?.text ?? value]));
  if (list.dataset.words === words) return;
  list.dataset.words = words;
  swap(list, kept.map(([key, value]) => [h("dt", null, key), h("dd", null, typeof value === "object" ? value.make() : h("span", null, String(value)))]));
}

const coded = (text, what, shown = text) => (text ? { text, make: () => [h("code", { title: text }, shown), copy(text, `Copy the ${what}`)] } : null);
const dated = (iso) => (iso ? { text: iso, make: () => time(iso) } : null);
const linked = (text, href) => (text ? { text, make: () => h("a.link", { href }, text) } : null);

function factsOf(job) {
  const begun = Date.parse(job.created_at);
  return [
    ["Provider", providerName(job.provider)],
    ["Model", job.model],
    ["Route", job.route],
    ...targetsOf(job),
    ["Scene", linked(job.scene_id, `#/jobs?${new URLSearchParams({ scene_id: job.scene_id ?? "" })}`)],
    ["User", linked(job.user_id, `#/jobs?${new URLSearchParams({ user_id: job.user_id ?? "" })}`)],
    ["Cost", costWords(job)],
    ["Attempt", job.attempt ? `${job.attempt} of ${job.max_attempts}` : "none made yet"],
    ["Priority", job.priority || null],
    ["Created", dated(job.created_at)],
    ["Started", dated(job.started_at)],
    [isFinal(job) ? "Ended" : "Deadline", dated(isFinal(job) ? job.completed_at : job.deadline_at)],
    ["Took", job.completed_at && isFinal(job) ? duration((Date.parse(job.completed_at) - begun) / 1000) : null],
    ["Size", job.size_bytes ? `${bytes(job.size_bytes)}${job.width ? `, ${job.width} × ${job.height}` : ""}${job.duration_s ? `, ${job.duration_s.toFixed(1)} s` : ""}` : null],
    ["Operation", coded(job.operation?.id, "operation", job.operation && tail(job.operation.id))],
    ["Stored at", coded(job.storage_key, "storage key")],
    ["SHA-256", coded(job.sha256, "hash")],
    ["Worker", job.worker_id ? short(job.worker_id) : null],
    ["Idempotency key", coded(job.idempotency_key, "idempotency key")],
    ["Webhook", job.webhook_url],
    ["Job id", coded(job.id, "job id")],
  ];
}

// Who else may make it, and what is different there.
function targetsOf(job) {
  const rows = (job.targets ?? []).map((one, index) => {
    const words = [`${providerName(one.provider)} ${one.model}`, money(one.estimated_cost_micros), ...(one.mapped ?? [])].join(", ");
    return [index === 0 ? "Asked of" : `Else ${index}`, index === job.target ? `${words} (now)` : words];
  });
  return [...rows, ["Costs at most", job.max_cost_micros ? money(job.max_cost_micros) : null]];
}

function costWords(job) {
  const estimate = job.estimated_cost_micros === null ? "no estimate" : `${money(job.estimated_cost_micros)} estimated`;
  const known = job.actual_cost_micros;
  if (!isFinal(job)) return known ? `${job.stage === "transferring" ? "" : `${estimate}, after `}${money(known)} so far` : estimate;
  const hidden = unknownAttempts(job);
  const rest = hidden ? `what was billed for ${plural(hidden, "attempt")} (${estimate}) only ${providerName(job.provider)} knows` : null;
  if (rest) return known ? `${money(known)}; ${rest}` : rest;
  if (known !== null) return known === 0 ? "nothing" : `${money(known)}${job.lost_cost_micros && job.status === "completed" ? `, ${money(job.lost_cost_micros)} of it for nothing` : ""}`;
  return job.attempt === 0 ? "nothing: the provider accepted nothing" : `${estimate}; what was billed only ${providerName(job.provider)} knows`;
}

function parametersOf(job) {
  const wish = job.parameters ?? {};
  const images = (wish.images ?? []).map((image) => image.role.replaceAll("_", " ")).join(", ");
  const extra = wish.extra && Object.keys(wish.extra).length ? JSON.stringify(wish.extra) : null;
  return [
    ["Length", wish.seconds ? `${wish.seconds} s` : null],
    ["Size", wish.size],
    ["Shape", wish.aspect_ratio],
    ["Resolution", wish.resolution],
    ["Sound", wish.audio === null || wish.audio === undefined ? null : wish.audio ? "yes" : "no"],
    ["Seed", wish.seed],
    ["Without", wish.negative_prompt],
    ["Images", images],
    ["Extra", extra],
  ];
}

function copy(text, label) {
  const node = h(
    "button.button.ghost.bare",
    {
      type: "button",
      title: label,
      aria: { label },
      onclick: async () => {
        try {
          await navigator.clipboard.writeText(text);
          toast("Copied");
        } catch {
          toast(`The browser does not allow it; it reads ${text}`);
        }
      },
    },
    icon("copy"),
  );
  return node;
}
