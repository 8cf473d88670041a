// Where money is spent: limits, breakers, pauses, and which models there are, for how much and how long.

import { get } from "./api.js";
import { attr, button, empty, h, put, reconcile, show, swap } from "./dom.js";
import { priceRange } from "./price.js";
import { askPause, resume } from "./steer.js";
import { duration, nameProviders, number, providerName } from "./words.js";

export const name = "providers";
export const title = () => "Providers";

const SOON_DAYS = 60;

export function mount(root, context) {
  let gone = false;
  let timer = null;
  const list = h("div");
  const error = h("p.error", { role: "alert", hidden: true });
  root.append(h("div.head", null, context.heading), error, list);
  look();

  async function look() {
    timer = null;
    try {
      const { providers } = await get("/api/providers");
      if (gone) return;
      show(error, false);
      nameProviders(providers);
      if (providers.length === 0) return swap(list, empty("providers", "No provider is known"));
      reconcile(list, providers, (provider) => provider.name, make, update);
    } catch (problem) {
      if (gone) return;
      put(error, problem.message);
      show(error, true);
    }
  }

  function make(provider) {
    const parts = {
      pill: h("span.status.pill"),
      actions: h("div.actions"),
      turns: h("span"),
      rate: h("meter", { min: 0, aria: { label: `Submits of the last minute to ${provider.name}` } }),
      breaker: h("span.status"),
      breakerNote: h("div.muted"),
      key: h("span.status"),
      keyNote: h("div.muted"),
      models: h("tbody"),
    };
    const node = h(
      "section.panel.provider",
      { aria: { label: providerName(provider.name) } },
      h("div.provider-head", null, h("h2", null, providerName(provider.name)), parts.pill, parts.actions),
      h(
        "div.meters",
        null,
        h("div", null, h("div.name", null, "Submits in the last minute"), parts.turns, parts.rate),
        h("div", null, h("div.name", null, "Breaker"), parts.breaker, parts.breakerNote),
        h("div", null, h("div.name", null, "Key"), parts.key, parts.keyNote),
      ),
      h("div.scroll", { tabindex: "0", role: "region", aria: { label: `Models of ${providerName(provider.name)}` } }, h("table.tight", null, h("thead", null, h("tr", null, ["Model", "State", "Its vendor ends it", "Lengths", "Sizes"].map((words) => h("th", { scope: "col" }, words)), h("th.number", { scope: "col" }, "Per second"))), parts.models)),
    );
    node.parts = parts;
    return node;
  }

  function update(node, provider) {
    const { parts } = node;
    const { breaker } = provider;
    const [words, tone] = !provider.configured ? ["not set up", "off"] : provider.paused ? ["paused", "warn"] : breaker?.open ? ["left alone", "bad"] : ["ready", "good"];
    put(parts.pill, words);
    attr(parts.pill, "class", `status pill ${tone}`);
    put(parts.turns, `${number(provider.turns_used)} of ${number(provider.limit_per_min)}`);
    parts.rate.max = Math.max(1, provider.limit_per_min ?? 1);
    parts.rate.high = parts.rate.max * 0.9;
    parts.rate.optimum = 0;
    parts.rate.value = provider.turns_used ?? 0;
    put(parts.breaker, breaker?.open ? "open" : "closed");
    attr(parts.breaker, "class", `status ${breaker?.open ? "bad" : "good"}`);
    put(parts.breakerNote, breaker?.open ? `left alone for ${duration(breaker.pause_s)} after ${number(breaker.failures)} failures` : breaker?.failures ? `${number(breaker.failures)} failures in a row` : "no failures in a row");
    put(parts.key, provider.configured ? "set" : "missing");
    attr(parts.key, "class", `status ${provider.configured ? "good" : "off"}`);
    put(parts.keyNote, provider.configured ? "kept in the environment, never shown" : "its jobs fail with provider_not_configured");
    if (context.acts) reconcile(parts.actions, [provider.paused ? "resume" : "pause"], (one) => one, (one) => action(one, provider), () => {});
    reconcile(parts.models, provider.models, (model) => model.name, makeModel, updateModel);
  }

  function action(one, provider) {
    const then = () => {
      context.askQueue();
      look();
    };
    return one === "resume"
      ? button("Resume", { kind: "primary", glyph: "play", aria: { label: `Resume ${provider.name}` }, onclick: () => resume(provider.name, then) })
      : button("Pause …", { glyph: "pause", aria: { label: `Pause ${provider.name}` }, onclick: () => askPause([provider.name], then) });
  }

  function makeModel(model) {
    const state = h("span.status");
    const row = h("tr", null, h("td", null, h("code", null, model.name)), h("td", null, state), h("td.muted", null, model.retires_on ?? "–"), h("td.muted.keep", null, model.seconds.length ? `${model.seconds.join(", ")} s` : "–"), h("td.muted", null, shapes(model)), h("td.number", null, priceRange(model) ?? "–"));
    row.state = state;
    return row;
  }

  function updateModel(row, model) {
    const [words, tone] = stateOf(model);
    put(row.state, words);
    attr(row.state, "class", `status ${tone}`);
  }

  return {
    refresh: () => (timer ??= setTimeout(look, 500)),
    event: (event) => ["submitting", "errored", "postponed"].includes(event.type) && (timer ??= setTimeout(look, 1500)),
    unmount() {
      gone = true;
      clearTimeout(timer);
    },
  };
}

function shapes(model) {
  if (model.aspect_ratios.length) return `${model.aspect_ratios.join(" and ")} in ${model.resolutions.join(", ")}`;
  const turned = (size) => size.split("x").reverse().join("x");
  const both = model.sizes.every((size) => model.sizes.includes(turned(size)));
  const wide = model.sizes.filter((size) => !both || parseInt(size, 10) > parseInt(turned(size), 10));
  return `${wide.join(", ").replaceAll("x", " × ")}${both ? ", landscape and upright" : ""}`;
}

function stateOf(model) {
  const days = model.retires_on ? Math.ceil((Date.parse(model.retires_on) - Date.now()) / 86_400_000) : null;
  if (!model.available) return [days !== null && days <= 0 ? "switched off" : "not set up", "off"];
  return days !== null && days > 0 && days < SOON_DAYS ? [`${days} days left`, "warn"] : ["available", "good"];
}
