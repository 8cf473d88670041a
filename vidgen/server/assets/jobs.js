// All jobs: filters, lines that move, pages by cursor.

import { get } from "./api.js";
import { attr, button, empty, h, put, show, swap, toast } from "./dom.js";
import * as rows from "./rows.js";
import { codes, nameProviders, plural } from "./words.js";

export const name = "jobs";
export const title = () => "Jobs";

const LIMIT = 50;
const LOOK_AT_MOST_EVERY_MS = 1200;
const TYPING_MS = 350;
const FILTERS = ["status", "provider", "user_id", "scene_id", "code"];
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;

export function mount(root, context) {
  let query = context.query;
  let trail = []; // cursors of the newer pages, as far as we came by them
  let shown = [];
  let next = null;
  let asked = null;
  let timer = null;
  let gone = false;
  let named = false;

  const head = rows.head();
  const list = h("ol.rows", { aria: { label: "Jobs, newest first" } });
  rows.walk(list);
  const nothing = h("div", { hidden: true });
  const error = h("p.error.panel-foot", { role: "alert", hidden: true });
  const count = h("span", { role: "status" });
  const newer = button("Newer", { kind: "small", glyph: "back", onclick: () => page(trail.pop() ?? null) });
  const older = button("Older", { kind: "small", glyph: "next", onclick: () => { trail.push(query.before ?? null); page(next); } });
  const filters = fields();
  const clear = button("Clear filters", { kind: "small.ghost", onclick: () => context.navigate("/jobs") });

  root.append(
    h("div.head", null, context.heading, h("div.actions", null, clear)),
    h("form.filters", { role: "search", aria: { label: "Filter jobs" }, onsubmit: (event) => event.preventDefault() }, Object.values(filters).map((field) => field.label)),
    h("div.panel.jobs", null, head, list, nothing, error, h("div.panel-foot", null, count, h("div.actions", null, newer, older))),
  );
  fill();
  look();
  askNames();

  // Until it was answered once: with each refresh again.
  function askNames() {
    if (named) return;
    get("/api/providers").then(({ providers }) => {
      named = true;
      nameProviders(providers);
      for (const provider of providers) {
        if (![...filters.provider.input.options].some((option) => option.value === provider.name)) filters.provider.input.append(h("option", { value: provider.name }, provider.name));
      }
      fill();
    }, () => {});
  }

  function fields() {
    const typed = (key, words, props = {}) => {
      let typing = null;
      const input = h("input", { type: "search", placeholder: words, autocomplete: "off", spellcheck: "false", oninput: () => { clearTimeout(typing); typing = setTimeout(() => chosen(key, input.value.trim()), TYPING_MS); }, ...props });
      return { input, label: h("label", null, h("span.visually-hidden", null, words), input) };
    };
    const picked = (key, words, options) => {
      const input = h("select", { onchange: () => chosen(key, input.value) }, h("option", { value: "" }, words), options.map((option) => h("option", { value: option }, option)));
      return { input, label: h("label", null, h("span.visually-hidden", null, words), input) };
    };
    return {
      status: picked("status", "Any status", ["pending", "processing", "completed", "failed", "cancelled"]),
      provider: picked("provider", "Any provider", []),
      code: picked("code", "Any error", codes),
      user_id: typed("user_id", "User"),
      scene_id: typed("scene_id", "Scene"),
      id: typed("id", "Job id"),
    };
  }

  function chosen(key, value) {
    if (gone) return;
    if (key === "id") {
      const wrong = value !== "" && !UUID.test(value);
      attr(filters.id.input, "aria-invalid", wrong ? "true" : null);
      if (value && !wrong) openJob(value);
      return;
    }
    const wanted = { ...query, [key]: value };
    delete wanted.before;
    if (key === "code" && value) delete wanted.status; // only failed ones have a code
    context.navigate("/jobs", wanted, { replace: true });
  }

  async function openJob(id) {
    try {
      await get(`/api/jobs/${id}`);
      context.navigate(`/jobs/${id}`);
    } catch (problem) {
      toast(problem.message, "bad");
    }
  }

  function fill() {
    for (const key of FILTERS) {
      const { input } = filters[key];
      const value = query[key] ?? "";
      if (input.tagName === "SELECT" && value && ![...input.options].some((option) => option.value === value)) input.append(h("option", { value }, value));
      if (input.value !== value && document.activeElement !== input) input.value = value;
      if (input.tagName === "SELECT") input.value = value;
    }
    show(clear, FILTERS.some((key) => query[key]));
  }

  function page(before) {
    context.navigate("/jobs", { ...query, before });
  }

  async function look() {
    clearTimeout(timer);
    timer = null;
    asked?.abort();
    asked = new AbortController();
    const mine = asked;
    try {
      const wanted = Object.fromEntries([...FILTERS, "before"].map((key) => [key, query[key]]));
      const answer = await get("/api/jobs", { ...wanted, limit: LIMIT }, mine.signal);
      if (gone || mine !== asked) return;
      shown = answer.jobs;
      next = answer.next;
      show(error, false);
      draw();
    } catch (problem) {
      if (gone || mine !== asked || problem.name === "AbortError") return;
      put(error, problem.message);
      show(error, true);
    }
  }

  function draw() {
    rows.draw(list, shown);
    const filtered = FILTERS.some((key) => query[key]);
    if (shown.length === 0 && nothing.hidden) {
      swap(nothing, filtered ? empty("jobs", "No job fits these filters") : none());
    }
    show(nothing, shown.length === 0);
    show(head, shown.length > 0);
    show(list, shown.length > 0);
    put(count, shown.length === 0 ? "" : query.before ? `${plural(shown.length, "job")} on this page` : next ? `The newest ${shown.length} jobs` : plural(shown.length, "job"));
    newer.disabled = !query.before;
    older.disabled = !next;
  }

  function none() {
    const or = ["or run ", h("code", null, "vidgen submit …")];
    return context.acts
      ? empty("film", "No jobs yet", h("a.link", { href: "#/new" }, "Make a video"), ", ", ...or)
      : empty("film", "No jobs yet", "They appear here as services ask for videos.");
  }

  function soon() {
    timer ??= setTimeout(look, LOOK_AT_MOST_EVERY_MS);
  }

  return {
    refresh() {
      askNames();
      soon();
    },
    tick: () => rows.draw(list, shown),
    event(event) {
      const job = shown.find((one) => one.id === event.job_id);
      if (job) {
        const changed = rows.apply(job, event);
        rows.draw(list, [...shown]);
        if (changed) soon();
      } else if (event.type === "created" || FILTERS.some((key) => query[key])) soon();
    },
    update(wanted) {
      query = wanted;
      if (!query.before) trail = [];
      show(nothing, false);
      fill();
      look();
      return true;
    },
    unmount() {
      gone = true;
      clearTimeout(timer);
      asked?.abort();
    },
  };
}
