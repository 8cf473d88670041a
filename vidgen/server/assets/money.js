// What may be spent, and what was: budgets with what is used of them, and the ledger by day, provider, model or user.

import { call, get } from "./api.js";
import { ask, attr, button, empty, h, put, reconcile, show, swap } from "./dom.js";
import { exactly, money, number, plural, providerName } from "./words.js";

export const name = "money";
export const title = () => "Money";

const PERIODS = { day: "a day", month: "a month", total: "in total" };
const BY = { day: "Day", provider: "Provider", model: "Model", user: "User" };
const SINCE = { 0: "Today", 6: "7 days", 29: "30 days", all: "All there is" };
const NEAR = 0.8;

export function mount(root, context) {
  let gone = false;
  let timer = null;
  const error = h("p.error.panel-foot", { role: "alert", hidden: true });
  const budgets = h("tbody");
  const spend = h("tbody");
  const noBudget = h("div", { hidden: true });
  const noSpend = h("div", { hidden: true });
  const total = h("span", { role: "status" });
  const by = h("select", { id: "by", onchange: look }, Object.entries(BY).map(([value, words]) => h("option", { value }, words)));
  const since = h("select", { id: "since", onchange: look }, Object.entries(SINCE).map(([value, words]) => h("option", { value }, words)));
  since.value = "29";
  const csv = h("a.button.small", { download: true }, "CSV");
  const first = h("th", { scope: "col" });
  const budgetTable = table("All budgets", ["Budget", "Limit", "Spent", "Reserved", "Used", "Frees", ...(context.acts ? ["Change"] : [])].map((words) => h("th", { scope: "col" }, words)), budgets);
  const spendTable = table("What was spent", [first, ...["Paid by", "Charged", "Wasted", "Of it uncertain", "Videos"].map((words) => h("th", { scope: "col" }, words))], spend);
  root.append(
    h("div.head", null, context.heading, h("div.actions", null, context.acts ? button("Set a budget …", { glyph: "plus", onclick: () => askBudget() }) : null)),
    h("section.panel.provider", { aria: { label: "Budgets" } }, h("div.provider-head", null, h("h2", null, "Budgets")), budgetTable, noBudget, error),
    h(
      "section.panel.provider",
      { aria: { label: "Spend" } },
      h("div.provider-head", null, h("h2", null, "Spend"), h("div.actions", null, h("label.visually-hidden", { for: "by" }, "By"), by, h("label.visually-hidden", { for: "since" }, "Since"), since, csv)),
      spendTable,
      noSpend,
      h("div.panel-foot", null, total),
    ),
  );
  look();

  function table(label, columns, body) {
    return h("div.scroll", { tabindex: "0", role: "region", aria: { label } }, h("table.tight", null, h("thead", null, h("tr", null, columns)), body));
  }

  async function look() {
    timer = null;
    const query = { by: by.value, from: from() };
    attr(csv, "href", `/api/spend?${new URLSearchParams({ ...(query.from ? query : { by: query.by }), format: "csv" })}`);
    try {
      const [known, spent] = await Promise.all([get("/api/budgets"), get("/api/spend", query)]);
      if (gone || query.by !== by.value) return;
      show(error, false);
      drawBudgets(known.budgets);
      drawSpend(spent);
    } catch (problem) {
      if (gone) return;
      put(error, problem.message);
      show(error, true);
    }
  }

  // Midnight in UTC, as the ledger counts days.
  function from() {
    if (since.value === "all") return null;
    const day = new Date();
    day.setUTCHours(0, 0, 0, 0);
    day.setUTCDate(day.getUTCDate() - Number(since.value));
    return day.toISOString();
  }

  function drawBudgets(all) {
    reconcile(budgets, all, (budget) => `${budget.period} ${budget.scope}`, makeBudget, updateBudget);
    show(budgetTable, all.length > 0);
    show(noBudget, all.length === 0);
    if (all.length === 0 && !noBudget.firstChild) swap(noBudget, empty("money", "Nothing limits what is spent", "A budget stops new videos before they cost more than it bears."));
  }

  function makeBudget(budget) {
    const parts = { limit: h("td.number"), spent: h("td.number"), reserved: h("td.number"), state: h("span.status"), used: h("meter", { min: 0, aria: { label: `Used of the budget of ${scopeName(budget.scope)} ${PERIODS[budget.period]}` } }), frees: h("td.muted") };
    const what = `the budget of ${scopeName(budget.scope)} ${PERIODS[budget.period]}`;
    const node = h(
      "tr",
      null,
      h("td", null, scopeName(budget.scope), " ", h("span.muted", null, PERIODS[budget.period])),
      parts.limit,
      parts.spent,
      parts.reserved,
      h("td", null, parts.state, parts.used),
      parts.frees,
      context.acts ? h("td", null, h("div.actions", null, button("Change …", { kind: "small", aria: { label: `Change ${what}` }, onclick: () => askBudget(node.budget) }), button("Remove …", { kind: "small", aria: { label: `Remove ${what}` }, onclick: () => askRemove(node.budget) }))) : null,
    );
    node.parts = parts;
    return node;
  }

  function updateBudget(node, budget) {
    node.budget = budget;
    const { parts } = node;
    const used = budget.spent_micros + budget.reserved_micros;
    const share = budget.limit_micros ? used / budget.limit_micros : 1;
    put(parts.limit, money(budget.limit_micros));
    put(parts.spent, money(budget.spent_micros));
    put(parts.reserved, money(budget.reserved_micros));
    const users = budget.scope === "each-user" ? (budget.near ? `; ${plural(budget.near, "user")} at 80 %` : "; of the one who used most") : "";
    put(parts.state, `${Math.floor(share * 100)} %${users}`);
    attr(parts.state, "class", `status ${share >= 1 ? "bad" : share >= NEAR ? "warn" : "good"}`);
    parts.used.max = Math.max(1, budget.limit_micros);
    parts.used.high = parts.used.max * NEAR;
    parts.used.optimum = 0;
    parts.used.value = Math.min(used, parts.used.max);
    put(parts.frees, budget.frees_at ? exactly(budget.frees_at) : "never");
  }

  function drawSpend({ by: key, spend: rows }) {
    put(first, BY[key]);
    // All of another kind: nothing is kept.
    reconcile(spend, rows, (row) => `${key} ${row.payer} ${row.key}`, makeSpend(key), updateSpend);
    show(spendTable, rows.length > 0);
    show(noSpend, rows.length === 0);
    if (rows.length === 0 && !noSpend.firstChild) swap(noSpend, empty("money", "Nothing was spent", "What videos cost stands here, once it is known."));
    const sum = rows.reduce((all, row) => all + row.charged_micros + row.wasted_micros, 0);
    put(total, `${money(sum)} spent`);
  }

  const makeSpend = (key) => (row) => {
    const parts = { charged: h("td.number"), wasted: h("td.number"), uncertain: h("td.number"), jobs: h("td.number") };
    const words = row.key === null ? (key === "user" ? "no user, or forgotten" : "–") : key === "provider" ? providerName(row.key) : row.key;
    const node = h("tr", null, h("td.wrap", null, words), h("td.muted", null, row.payer === "server" ? "the server" : "the user's key"), parts.charged, parts.wasted, parts.uncertain, parts.jobs);
    node.parts = parts;
    return node;
  };

  function updateSpend({ parts }, row) {
    put(parts.charged, money(row.charged_micros));
    put(parts.wasted, money(row.wasted_micros));
    put(parts.uncertain, money(row.uncertain_micros));
    put(parts.jobs, number(row.jobs));
  }

  function askBudget(known = null) {
    const scope = h("input", { id: "scope", required: true, maxlength: "500", value: known?.scope ?? "all", readonly: known !== null, autocomplete: "off", aria: { describedby: "scope-hint" } });
    const period = h("select", { id: "period", disabled: known !== null }, Object.entries(PERIODS).map(([value, words]) => h("option", { value }, words)));
    if (known) period.value = known.period;
    const dollars = h("input", { id: "dollars", type: "number", min: "0", step: "0.01", required: true, value: known ? String(known.limit_micros / 1e6) : "" });
    ask({
      title: known ? `Change the budget of ${scopeName(known.scope)}?` : "Set a budget?",
      body: h(
        "div.dialog-body",
        null,
        h("p", null, "New videos that it cannot bear are refused. What is under way goes on, and counts."),
        h("div.field", null, h("label", { for: "scope" }, "Of"), scope, h("p.hint", { id: "scope-hint" }, "all, provider:NAME, user:ID, or each-user")),
        h("div.field", null, h("label", { for: "period" }, "Period"), period),
        h("div.field", null, h("label", { for: "dollars" }, "Dollars"), dollars),
      ),
      confirm: "Set",
      act: async () => drawBudgets((await call("PUT", "/api/budgets", { body: { scope: scope.value.trim(), period: period.value, limit_micros: Math.round(Number(dollars.value) * 1e6) } })).budgets),
    });
  }

  function askRemove(budget) {
    ask({
      title: `Remove the budget of ${scopeName(budget.scope)} ${PERIODS[budget.period]}?`,
      body: h("p", null, "Nothing limits then what it limits now. The ledger stays as it is."),
      confirm: "Remove",
      kind: "danger",
      act: async () => drawBudgets((await call("DELETE", "/api/budgets", { query: { scope: budget.scope, period: budget.period } })).budgets),
    });
  }

  return {
    refresh: () => (timer ??= setTimeout(look, 500)),
    event: (event) => event.type !== undefined && (timer ??= setTimeout(look, 1000)),
    unmount() {
      gone = true;
      clearTimeout(timer);
    },
  };
}

function scopeName(scope) {
  if (scope === "all") return "all videos";
  if (scope === "each-user") return "each user";
  return scope.startsWith("provider:") ? providerName(scope.slice(9)) : `user ${scope.slice(5)}`;
}
