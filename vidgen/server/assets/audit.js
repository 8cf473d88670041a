// Who did what, from where.

import { get } from "./api.js";
import { button, empty, h, put, reconcile, show, swap } from "./dom.js";
import { time } from "./rows.js";
import { plural, short } from "./words.js";

export const name = "audit";
export const title = () => "Audit";

const LIMIT = 50;
const UUID = /^[0-9a-f-]{36}$/;

export function mount(root, context) {
  let gone = false;
  let entries = [];
  let next = null;
  const rows = h("tbody");
  const nothing = h("div", { hidden: true });
  const error = h("p.error.panel-foot", { role: "alert", hidden: true });
  const count = h("span", { role: "status" });
  const more = button("Show older", { kind: "small", onclick: older });
  const table = h("div.scroll", { tabindex: "0", role: "region", aria: { label: "Audit" } }, h("table.tight", null, h("thead", null, h("tr", null, ["When", "Who", "Action", "Target", "Detail", "Address"].map((words) => h("th", { scope: "col" }, words)))), rows));
  const foot = h("div.panel-foot", null, count, h("div.actions", null, more));
  root.append(h("div.head", null, context.heading), h("div.panel", null, table, nothing, error, foot));
  look();

  async function look() {
    await load(null, (answer) => {
      const known = new Set(entries.map((entry) => entry.seq));
      if (entries.length === 0) next = answer.next;
      entries = [...answer.entries.filter((entry) => !known.has(entry.seq)), ...entries];
    });
  }

  async function older() {
    await load(next, (answer) => {
      entries = [...entries, ...answer.entries];
      next = answer.next;
    });
  }

  async function load(before, take) {
    try {
      const answer = await get("/api/audit", { before, limit: LIMIT });
      if (gone) return;
      take(answer);
      show(error, false);
      draw();
    } catch (problem) {
      if (gone) return;
      put(error, problem.message);
      show(error, true);
    }
  }

  function draw() {
    reconcile(rows, entries, (entry) => entry.seq, make, () => {});
    const some = entries.length > 0;
    show(table, some);
    show(foot, some);
    show(nothing, !some);
    show(more, Boolean(next));
    put(count, plural(entries.length, "entry", "entries"));
    if (!some && !nothing.firstChild) swap(nothing, empty("audit", "Nobody did anything yet", "Each cancel, retry, pause and new video stands here, with who and from where."));
  }

  function make(entry) {
    const target = entry.target ?? "";
    const detail = Object.entries(entry.detail ?? {}).filter(([, value]) => value !== null && value !== false && value !== "").map(([key, value]) => `${key.replaceAll("_", " ")} ${typeof value === "object" ? JSON.stringify(value) : value}`);
    return h(
      "tr",
      null,
      h("td", null, time(entry.at)),
      h("td", null, entry.who, " ", h("span.tag", null, entry.role)),
      h("td", null, h("code", null, entry.action)),
      h("td", null, UUID.test(target) ? h("a.link", { href: `#/jobs/${target}` }, short(target)) : target || "–"),
      h("td.wrap.muted", null, detail.join(", ") || "–"),
      h("td.muted", null, entry.address || "–"),
    );
  }

  return {
    refresh: look,
    event: (event) => ["created", "retried", "cancel_requested", "cancelled"].includes(event.type) && look(),
    unmount: () => {
      gone = true;
    },
  };
}
