// What failed, by reason, and another try for all of one kind: first what it would cost, then yes or no.

import { get, post } from "./api.js";
import { ask, button, empty, h, put, reconcile, show, swap, toast } from "./dom.js";
import { hashOf } from "./route.js";
import { ago, codeMeans, exactly, money, number, plural, providerName, short } from "./words.js";

export const name = "failed";
export const title = () => "Failed";

const LISTED = 6;
const LIMIT = 1000;
const ALL_OF_THEM_MS = 120_000; // each is a transaction of its own

export function mount(root, context) {
  let gone = false;
  let timer = null;
  const list = h("ul.rows", { aria: { label: "Failed jobs by reason" } });
  const nothing = h("div", { hidden: true });
  const error = h("p.error.panel-foot", { role: "alert", hidden: true });
  const all = context.acts ? button("Retry all …", { glyph: "retry", hidden: true, onclick: () => plan({}, "every failed job") }) : null;
  const total = h("span.muted");
  root.append(h("div.head", null, context.heading, total, h("div.actions", null, all)), h("div.panel", null, list, nothing, error));
  look();

  async function look() {
    timer = null;
    try {
      const answer = await get("/api/failed");
      if (gone) return;
      show(error, false);
      reconcile(list, answer.codes, (group) => `${group.provider} ${group.code}`, make, update);
      put(total, answer.total ? plural(answer.total, "job") : "");
      show(list, answer.codes.length > 0);
      show(nothing, answer.codes.length === 0);
      if (all) show(all, answer.codes.length > 1);
      if (answer.codes.length === 0 && !nothing.firstChild) swap(nothing, empty("check", "Nothing failed", "Failed jobs gather here by reason, until they are retried or deleted after a while."));
    } catch (problem) {
      if (gone) return;
      put(error, problem.message);
      show(error, true);
    }
  }

  function make(group) {
    const parts = { count: h("span.tag"), times: h("p.hint") };
    const node = h(
      "li.group",
      null,
      h("div.code", null, h("code", null, group.code), h("span.muted", null, providerName(group.provider)), parts.count),
      h("p.means", null, codeMeans(group.code)),
      parts.times,
      h(
        "div.actions",
        null,
        h("a.button", { href: hashOf("/jobs", { status: "failed", provider: group.provider, code: group.code }), aria: { label: `Show the jobs with ${group.code} of ${group.provider}` } }, "Show"),
        context.acts ? button("Retry …", { glyph: "retry", aria: { label: `Retry those with ${group.code} of ${group.provider}` }, onclick: () => plan({ provider: group.provider, code: group.code }, `${group.code} of ${providerName(group.provider)}`) }) : null,
      ),
    );
    node.parts = parts;
    return node;
  }

  function update(node, group) {
    put(node.parts.count, plural(group.jobs, "job"));
    put(node.parts.times, group.jobs === 1 || group.oldest_at === group.newest_at ? ago(group.newest_at) : `newest ${ago(group.newest_at)}, oldest ${ago(group.oldest_at)}`);
    node.parts.times.title = `${exactly(group.oldest_at)} to ${exactly(group.newest_at)}`;
  }

  async function plan(filter, what) {
    const anew = h("input", { type: "checkbox" });
    const told = h("div.dialog-body", { role: "status" });
    let dry = null;
    const count = async () => {
      yes.disabled = true;
      dry = null;
      try {
        dry = await post("/api/failed/retry", { ...filter, limit: LIMIT, anew: anew.checked, dry_run: true });
        swap(told, bill(dry));
        put(yes, dry.jobs.length === 0 ? "Nothing to retry" : `Retry ${plural(dry.jobs.length, "job")}${paying(dry) ? ` for ${price(dry)}` : ""}`);
        yes.disabled = dry.jobs.length === 0;
      } catch (problem) {
        swap(told, h("p.error", null, problem.message));
      }
    };
    anew.addEventListener("change", count);
    const { yes } = ask({
      title: `Retry ${what}?`,
      body: h("div.dialog-body", null, told, h("label.choice", null, anew, h("span", null, "Make all of them anew, even where the paid video may still be had"))),
      confirm: "Counting …",
      act: async () => {
        const done = await post("/api/failed/retry", { ...filter, limit: LIMIT, anew: anew.checked }, { timeoutMs: ALL_OF_THEM_MS });
        toast(`${plural(done.jobs.length, "job goes", "jobs go")} on.`);
        context.askQueue();
        look();
      },
    });
    swap(told, h("p.muted", null, "Counting what it would cost …"));
    await count();
  }

  function soon() {
    timer ??= setTimeout(look, 1200);
  }

  return {
    refresh: soon,
    event: (event) => ["failed", "retried"].includes(event.type) && soon(),
    unmount() {
      gone = true;
      clearTimeout(timer);
    },
  };
}

const paying = (dry) => dry.jobs.filter((job) => job.pays_again).length;

function price(dry) {
  const unknown = dry.jobs.some((job) => job.pays_again && job.cost_micros === null);
  return `${unknown ? "at least " : ""}${money(dry.cost_micros ?? 0)}`;
}

function bill(dry) {
  const again = paying(dry);
  const free = dry.jobs.length - again;
  const jobs = dry.jobs.filter((job) => job.pays_again).slice(0, LISTED);
  const full = dry.jobs.length === LIMIT;
  return [
    h(
      "div.sum",
      null,
      h("span", null, `${number(free)} go on with what is paid`),
      h("span.number", null, money(0)),
      h("span", null, `${number(again)} are made and paid again`),
      h("span.number", null, price(dry)),
      h("span.total", null, plural(dry.jobs.length, "job")),
      h("span.number.total", null, price(dry)),
    ),
    jobs.length
      ? h("p.hint", null, "Paid again: ", jobs.map((job, index) => [index ? ", " : "", h("a.link", { href: `#/jobs/${job.job_id}` }, short(job.job_id)), ` ${job.cost_micros === null ? "unknown" : money(job.cost_micros)}`]), again > jobs.length ? ` and ${number(again - jobs.length)} more` : "")
      : null,
    full ? h("p.hint", null, `${number(LIMIT)} at once: if there are more, they stay here and can be retried after these.`) : null,
  ];
}
