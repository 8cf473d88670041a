// How it goes: numbers, what looks wrong, the last hours, and what is under way.

import { get } from "./api.js";
import { chart, clockwise } from "./charts.js";
import { attr, button, empty, h, icon, put, reconcile, show, swap } from "./dom.js";
import * as rows from "./rows.js";
import { askDrain, askPause, resume } from "./steer.js";
import { duration, isFinal, money, nameProviders, number, plural, providerName } from "./words.js";

export const name = "overview";
export const title = () => "Overview";

const RANGES = [[1, "1 h"], [24, "24 h"], [168, "7 d"]];
const SHOWN = 8;
const LOOK_AT_MOST_EVERY_MS = 1500;

export function mount(root, context) {
  let hours = 24;
  let underWay = [];
  let queue = null;
  let names = [];
  let timers = {};
  let gone = false;

  const pill = h("span.status.pill", { hidden: true });
  const actions = h("div.actions");
  const issues = h("div.issues", { role: "status" });
  const tiles = {
    waiting: tile("Waiting", "#/jobs?status=pending"),
    active: tile("Active", "#/jobs?status=processing"),
    failed: tile("Failed", "#/failed"),
    delayed: tile("Delayed", "#/jobs?status=pending"),
    spend: tile("Spent today"),
    waste: tile("Wasted today"),
    oldest: tile("Oldest waiting"),
    workers: tile("Workers", "#/workers"),
  };
  const charts = [
    chart({
      title: "Videos",
      least: 2,
      format: (value) => (Number.isInteger(value) ? number(value) : ""),
      figure: (stats) => `${number(stats.completed)} made, ${number(stats.failed)} failed`,
      series: [
        { name: "made", mark: "bar", class: "mark-good", of: (bucket) => bucket.completed },
        { name: "failed", mark: "bar", class: "mark-bad", of: (bucket) => bucket.failed },
      ],
    }),
    chart({
      title: "Time to a video",
      least: 10,
      round: clockwise,
      format: (value) => brief(value),
      figure: (stats) => brief(median(stats.buckets)),
      series: [
        { name: "half are faster", mark: "line", class: "mark-line", of: (bucket) => bucket.p50_s },
        { name: "9 of 10 are faster", mark: "line", class: "mark-soft", of: (bucket) => bucket.p90_s },
      ],
    }),
    chart({
      title: "Spend",
      least: 1e6,
      format: (value) => (value >= 1e8 ? `$${Math.round(value / 1e6)}` : money(value)),
      figure: (stats) => money(stats.buckets.reduce((sum, bucket) => sum + (bucket.spend_micros ?? 0), 0)),
      series: [{ name: "spent", mark: "bar", class: "mark-good", of: (bucket) => bucket.spend_micros }],
    }),
  ];
  const ranges = RANGES.map(([value, words]) =>
    h("button", {
      type: "button",
      aria: { pressed: value === hours },
      onclick: () => {
        hours = value;
        for (const [index, [other]] of RANGES.entries()) attr(ranges[index], "aria-pressed", String(other === hours));
        lookAtStats();
      },
    }, words),
  );
  const head = rows.head();
  const list = h("ol.rows", { aria: { label: "Jobs under way" } });
  rows.walk(list);
  const nothing = h("div", { hidden: true });

  root.append(
    h("div.head", null, context.heading, pill, actions),
    issues,
    h("div.tiles", null, Object.values(tiles).map((one) => one.root)),
    h("section.section", { aria: { label: "The last hours" } }, h("div.section-head", null, h("h2", null, "History"), h("div.segments", { role: "group", aria: { label: "How far back" } }, ranges)), h("div.charts", null, charts.map((one) => one.root))),
    h("section.section", { aria: { label: "Under way" } }, h("div.section-head", null, h("h2", null, "Under way"), h("a.link.muted", { href: "#/jobs" }, "All jobs")), h("div.panel.jobs", null, head, list, nothing)),
  );
  lookAtStats();
  lookAtJobs();
  get("/api/providers").then(({ providers }) => { nameProviders(providers); names = providers.map((one) => one.name); }, () => {});

  async function lookAtStats() {
    timers.stats = null;
    const wanted = hours;
    try {
      const stats = await get("/api/stats", { hours: wanted });
      if (gone || wanted !== hours) return;
      for (const one of charts) one.tell(stats);
      tell(tiles.spend, money(stats.spend_today_micros), "since midnight UTC");
      tell(tiles.waste, money(stats.waste_today_micros), stats.unknown_today_micros ? `${money(stats.unknown_today_micros)} of it only possibly paid` : "paid without a video");
      attr(tiles.waste.root, "class", `tile${stats.waste_today_micros ? " bad" : ""}`);
    } catch {
      // The bar about the lost connection says it; what is shown still holds.
    }
  }

  async function lookAtJobs() {
    timers.jobs = null;
    try {
      const [active, waiting] = await Promise.all([get("/api/jobs", { status: "processing", limit: SHOWN }), get("/api/jobs", { status: "pending", limit: SHOWN })]);
      if (gone) return;
      underWay = [...active.jobs, ...waiting.jobs].slice(0, SHOWN);
      drawJobs();
    } catch {
      // as above
    }
  }

  function drawJobs() {
    rows.draw(list, underWay);
    show(head, underWay.length > 0);
    show(list, underWay.length > 0);
    show(nothing, underWay.length === 0);
    if (underWay.length === 0 && !nothing.firstChild) {
      swap(nothing, context.acts ? empty("film", "Nothing is under way", h("a.link", { href: "#/new" }, "Make a video"), ", or run ", h("code", null, "vidgen submit …")) : empty("film", "Nothing is under way"));
    }
  }

  function drawQueue() {
    tell(tiles.waiting, number(queue.waiting), "due now");
    tell(tiles.active, number(queue.active), "sent or being stored");
    tell(tiles.failed, number(queue.failed), queue.failed ? "can be retried" : "nothing to do");
    attr(tiles.failed.root, "class", `tile${queue.failed ? " bad" : ""}`);
    tell(tiles.delayed, number(queue.delayed), "due later");
    tell(tiles.oldest, queue.oldest_waiting_s ? duration(queue.oldest_waiting_s) : "–", queue.oldest_waiting_s ? "in line" : "nobody waits");
    tell(tiles.workers, number(queue.workers), queue.workers ? "alive" : "nobody works");
    const { paused } = queue;
    const [words, tone] = howItGoes();
    show(pill, true);
    put(pill, words);
    attr(pill, "class", `status pill ${tone}`);
    const banners = [
      ...paused.map((one) => ({ key: `paused ${one.provider}`, text: pausedWords(one), pause: one })),
      // Numbers in a sentence change; the banner stays the same one.
      ...queue.issues.map((text) => ({ key: text.replace(/[\d.]+/g, "#"), text })),
    ];
    reconcile(issues, banners, (one) => one.key, makeBanner, (node, one) => put(node.words, one.text));
    if (context.acts) reconcile(actions, queue.draining ? ["resume"] : ["pause", "drain"], (one) => one, makeAction, () => {});
  }

  function howItGoes() {
    if (queue.draining) return [queue.active ? "draining" : "drained", "warn"];
    if (queue.paused.length) return [`paused: ${queue.paused.map((one) => providerName(one.provider)).join(", ")}`, "warn"];
    return queue.workers ? ["running", "good"] : ["no worker", "bad"];
  }

  function makeBanner(one) {
    const words = h("div");
    const { pause } = one;
    const node = h("div.banner", null, icon(pause ? "pause" : "failed"), words, pause?.provider && context.acts ? button("Resume", { kind: "small", aria: { label: `Resume ${providerName(pause.provider)}` }, onclick: () => resume(pause.provider, heard) }) : null);
    node.words = words;
    return node;
  }

  function makeAction(one) {
    if (one === "resume") return button("Resume", { kind: "primary", glyph: "play", onclick: () => resume(null, heard) });
    if (one === "drain") return button("Drain …", { glyph: "drain", onclick: () => askDrain(heard) });
    return button("Pause …", { glyph: "pause", onclick: () => askPause(names, heard) });
  }

  function heard(answer) {
    queue = answer;
    drawQueue();
  }

  function soon(what, look) {
    timers[what] ??= setTimeout(look, LOOK_AT_MOST_EVERY_MS);
  }

  return {
    refresh() {
      soon("stats", lookAtStats);
      soon("jobs", lookAtJobs);
    },
    tick: drawJobs,
    queue: heard,
    event(event) {
      const job = underWay.find((one) => one.id === event.job_id);
      if (job && !(event.status && ["completed", "failed", "cancelled"].includes(event.status) && isFinal(job))) {
        rows.apply(job, event);
        drawJobs();
      }
      if (event.type === undefined || event.type === "progressed") return;
      soon("jobs", lookAtJobs);
      if (["completed", "failed", "cancelled"].includes(event.status)) soon("stats", lookAtStats);
    },
    unmount() {
      gone = true;
      Object.values(timers).forEach(clearTimeout);
    },
  };
}

function pausedWords(one) {
  const what = one.provider ? `${providerName(one.provider)} is paused` : "All providers are paused";
  return `${what} by ${one.by}${one.reason ? `: ${one.reason}` : ""}`;
}

function tile(words, href = null) {
  const value = h("span.value", null, "–");
  const note = h("span.note");
  const root = h(href ? "a.tile" : "div.tile", href ? { href } : null, h("span.name", null, words), value, note);
  return { root, value, note };
}

function tell(one, value, note) {
  put(one.value, value);
  put(one.note, note);
}

const brief = (seconds) => (seconds === null || seconds === undefined ? "–" : seconds === 0 ? "0" : seconds < 90 ? `${seconds < 10 ? Math.round(seconds * 10) / 10 : Math.round(seconds)} s` : `${Math.round(seconds / 6) / 10} min`);

function median(buckets) {
  const some = buckets.map((bucket) => bucket.p50_s).filter((value) => value !== null && value !== undefined).sort((a, b) => a - b);
  return some.length ? some[Math.floor(some.length / 2)] : null;
}
