// Who works, on how much, and since when.

import { get } from "./api.js";
import { attr, empty, h, put, reconcile, show, swap } from "./dom.js";
import { time } from "./rows.js";
import { number, short } from "./words.js";

export const name = "workers";
export const title = () => "Workers";

export function mount(root, context) {
  let gone = false;
  let timer = null;
  const rows = h("tbody");
  const nothing = h("div", { hidden: true });
  const columns = ["Worker", "State", "Videos", "Version", "Heartbeat", "Started"];
  const table = h("div.scroll", { tabindex: "0", role: "region", aria: { label: "Workers" } }, h("table", null, h("thead", null, h("tr", null, columns.map((words) => h("th", { scope: "col" }, words)))), rows));
  const error = h("p.error.panel-foot", { role: "alert", hidden: true });
  root.append(h("div.head", null, context.heading), h("div.panel", null, table, nothing, error));
  look();

  async function look() {
    timer = null;
    try {
      const { workers } = await get("/api/workers");
      if (gone) return;
      show(error, false);
      reconcile(rows, workers, (worker) => worker.id, make, update);
      show(table, workers.length > 0);
      show(nothing, workers.length === 0);
      if (workers.length === 0 && !nothing.firstChild) swap(nothing, empty("workers", "No worker is alive", "Start one with ", h("code", null, "vidgen worker"), "; jobs wait for it meanwhile."));
    } catch (problem) {
      if (gone) return;
      put(error, problem.message);
      show(error, true);
    }
  }

  function make(worker) {
    const parts = { state: h("span.status"), held: h("span"), room: h("meter", { min: 0, aria: { label: "Videos in flight" } }), beat: h("td"), since: h("td") };
    const row = h(
      "tr",
      null,
      h("td", null, h("div.clip", null, worker.hostname), h("div.muted", { title: worker.id }, `${short(worker.id)} · pid ${worker.pid}`)),
      h("td", null, parts.state),
      h("td", null, parts.held, parts.room),
      h("td.muted", null, worker.version),
      parts.beat,
      parts.since,
    );
    row.parts = parts;
    parts.since.append(time(worker.started_at));
    return row;
  }

  function update(row, worker) {
    const { parts } = row;
    put(parts.state, worker.alive ? "alive" : "silent");
    attr(parts.state, "class", `status ${worker.alive ? "good" : "bad"}`);
    put(parts.held, `${number(worker.held)} of ${number(worker.concurrency)}`);
    parts.room.max = Math.max(1, worker.concurrency);
    parts.room.value = worker.held;
    if (parts.beat.dataset.at !== worker.heartbeat_at) {
      parts.beat.dataset.at = worker.heartbeat_at;
      swap(parts.beat, time(worker.heartbeat_at));
    }
  }

  const beat = setInterval(look, 5000); // heartbeats are no events
  return {
    refresh: () => (timer ??= setTimeout(look, 500)),
    unmount() {
      gone = true;
      clearInterval(beat);
      clearTimeout(timer);
    },
  };
}
