// The shell: who is here, which view is open, and one clock and one stream for all of them.
//
// A view is a module with `title(route)` and `mount(root, context)`, which returns any of
//   refresh()      look again, keeping focus and scroll position
//   event(event)   something happened to a job
//   queue(queue)   the newest answer of /api/queue
//   tick()         a second went by
//   update(route)  the same view is wanted with another query; true if it could do that in place
//   unmount()

import { forgetUnanswered, get, onUnanswered, onUnauthorized, post } from "./api.js";
import { attr, button, h, icon, put, show, swap, toast } from "./dom.js";
import * as live from "./live.js";
import { current, hashOf } from "./route.js";
import { ago, number } from "./words.js";
import * as audit from "./audit.js";
import * as failed from "./failed.js";
import * as job from "./job.js";
import * as jobs from "./jobs.js";
import * as login from "./login.js";
import * as make from "./make.js";
import * as money from "./money.js";
import * as overview from "./overview.js";
import * as providers from "./providers.js";
import * as workers from "./workers.js";

const VIEWS = [
  { path: "/new", view: make, name: "New video", glyph: "plus", kind: "make", acts: true },
  { path: "/", view: overview, name: "Overview", glyph: "overview" },
  { path: "/jobs", view: jobs, name: "Jobs", glyph: "jobs" },
  { path: "/failed", view: failed, name: "Failed", glyph: "failed" },
  { path: "/workers", view: workers, name: "Workers", glyph: "workers" },
  { path: "/providers", view: providers, name: "Providers", glyph: "providers" },
  { path: "/money", view: money, name: "Money", glyph: "money" },
  { path: "/audit", view: audit, name: "Audit", glyph: "audit" },
];
const QUEUE_AT_MOST_EVERY_MS = 1500;
const AGAIN_MS = 3000; // while the server is away

const main = document.getElementById("main");
const shell = document.getElementById("shell");
const lost = document.getElementById("lost");

let session = null;
let open = null; // {entry, route, handle}
let failedCount = null;
let lastQueue = null; // so that a view opened now does not begin with dashes
let cut = false; // the stream is broken
let away = null; // why questions are not answered
let again = null;
let queueTimer = null;
let queueAskedAt = 0;

start();

async function start() {
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault(); // the fragment is the route
    main.focus();
  });
  onUnauthorized(() => session && ask("The session has ended, or its token was changed."));
  onUnanswered((problem) => {
    away = problem;
    drawLost();
  });
  window.addEventListener("hashchange", () => session && go());
  live.listen(news);
  setInterval(tick, 1000);
  await enter();
}

async function enter() {
  try {
    const me = await get("/api/me");
    if (me.login_needed && !me.name) return ask();
    session = { ...me, acts: me.role === "operate" };
  } catch (problem) {
    swap(main, h("div.empty", null, h("p.empty-title", null, "The server does not answer"), h("p", null, problem.message), button("Try again", { onclick: enter })));
    return;
  }
  main.classList.remove("alone");
  drawShell();
  show(shell, true);
  live.start((is) => {
    cut = is;
    drawLost();
  });
  askQueue();
  go();
}

function ask(why = null) {
  session = null;
  lastQueue = null;
  live.stop();
  close();
  show(shell, false);
  drawLost();
  main.classList.add("alone");
  document.title = "Log in · vidgen";
  login.mount(main, enter, why);
}

// A stream may stay open while PostgreSQL is away: then nothing on the page is news, and it says so.
function drawLost() {
  const is = session !== null && (cut || away !== null);
  const reached = !cut && away !== null && away.status !== 0;
  if (is) put(lost, reached ? `The server cannot answer now, trying again … (${away.message})` : "Connection lost, trying again …");
  show(lost, is);
  if (is && away !== null) again ??= setInterval(() => document.hidden || news({ refresh: true }), AGAIN_MS);
  else again = clearInterval(again) ?? null;
}

async function leave() {
  try {
    await post("/api/logout");
  } catch (problem) {
    toast(problem.message, "bad");
    return;
  }
  ask();
}

// --- routes ---

function entryOf(path) {
  const match = /^\/jobs\/([0-9a-fA-F-]{36})$/.exec(path);
  if (match) return { view: job, path: "/jobs", id: match[1].toLowerCase() };
  return VIEWS.find((entry) => entry.path === path);
}

function go() {
  const route = current();
  const entry = entryOf(route.path);
  if (!entry) {
    close();
    document.title = "Not found · vidgen";
    swap(main, h("div.empty", null, h("h1", null, "There is no such page"), h("p", null, h("a.link", { href: "#/" }, "To the overview"))));
    return;
  }
  if (open && open.entry.view === entry.view && open.entry.id === entry.id && open.handle?.update?.(route.query)) {
    open.route = route;
    return;
  }
  const first = open === null;
  close();
  for (const link of document.querySelectorAll("#nav a")) {
    attr(link, "aria-current", link.dataset.path === entry.path ? "page" : null);
    if (link.dataset.path === entry.path) link.parentElement.scrollLeft = link.offsetLeft - 110; // on a phone the views scroll sideways
  }
  const title = entry.view.title(entry);
  document.title = `${title} · vidgen`;
  const heading = h("h1", { tabindex: "-1" }, title);
  const root = h("div", { data: { view: entry.view.name } });
  swap(main, root);
  const context = { heading, query: route.query, id: entry.id, acts: session.acts, navigate, askQueue, setTitle };
  open = { entry, route, handle: null };
  open.handle = entry.view.mount(root, context);
  if (lastQueue) open.handle.queue?.(lastQueue);
  if (open.handle.queue) askQueue(); // of a pause no event tells
  if (!first) {
    window.scrollTo(0, 0);
    if (!root.contains(document.activeElement)) heading.focus({ preventScroll: true });
  }

  function setTitle(words) {
    document.title = `${words} · vidgen`;
  }
}

function close() {
  forgetUnanswered();
  open?.handle?.unmount?.();
  open = null;
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
}

function navigate(path, query, { replace = false } = {}) {
  const hash = hashOf(path, query);
  if (!replace) {
    location.hash = hash;
    return;
  }
  history.replaceState(null, "", hash);
  go();
}

// --- what happens ---

function news({ event, refresh }) {
  if (!session) return;
  if (refresh) {
    askQueue();
    open?.handle?.refresh?.();
  }
  if (event) {
    if (event.type !== undefined) askQueue();
    open?.handle?.event?.(event);
  }
}

// At most one question in QUEUE_AT_MOST_EVERY_MS, and always one after the last wish.
function askQueue() {
  if (queueTimer !== null) return;
  const wait = Math.max(0, queueAskedAt + QUEUE_AT_MOST_EVERY_MS - Date.now());
  queueTimer = setTimeout(async () => {
    queueTimer = null;
    queueAskedAt = Date.now();
    if (!session) return;
    try {
      told(await get("/api/queue"));
    } catch {
      // The bar about the lost connection says it.
    }
  }, wait);
}

function told(queue) {
  lastQueue = queue;
  if (failedCount) {
    put(failedCount, number(queue.failed));
    show(failedCount, queue.failed > 0);
  }
  open?.handle?.queue?.(queue);
}

function tick() {
  if (document.hidden) return;
  for (const node of main.querySelectorAll("time[data-ago]")) put(node, ago(node.dateTime));
  open?.handle?.tick?.();
}

// --- the side ---

function drawShell() {
  const links = VIEWS.filter((entry) => session.acts || !entry.acts).map((entry) => {
    const link = h("a", { href: `#${entry.path}`, class: entry.kind, data: { path: entry.path } }, icon(entry.glyph), h("span", null, entry.name));
    if (entry.path === "/failed") {
      failedCount = h("span.count", { hidden: true });
      link.append(failedCount);
    }
    return link;
  });
  swap(document.getElementById("nav"), links);
  const line = h("div.who-line", null, h("span", { title: `${session.name}, role ${session.role}` }, session.name, session.acts ? "" : " · may look"));
  if (session.name !== "local") {
    line.append(h("button.button.ghost.bare", { type: "button", title: "Log out", aria: { label: "Log out" }, onclick: leave }, icon("logout")));
  }
  swap(document.getElementById("who"), schemes(), line);
}

function schemes() {
  const chosen = () => document.documentElement.dataset.theme ?? "system";
  const choices = [
    ["system", "As the system"],
    ["light", "Light"],
    ["dark", "Dark"],
  ].map(([name, label]) =>
    h("button", {
      type: "button",
      title: label,
      aria: { label, pressed: chosen() === name },
      onclick: () => {
        if (name === "system") delete document.documentElement.dataset.theme;
        else document.documentElement.dataset.theme = name;
        try {
          if (name === "system") localStorage.removeItem("vidgen-theme");
          else localStorage.setItem("vidgen-theme", name);
        } catch {
          // It holds until the page is closed.
        }
        for (const [index, [other]] of [["system"], ["light"], ["dark"]].entries()) attr(choices[index], "aria-pressed", String(other === name));
      },
    }, icon({ system: "system", light: "sun", dark: "moon" }[name])),
  );
  return h("div.segments", { role: "group", aria: { label: "Colour scheme" } }, choices);
}
