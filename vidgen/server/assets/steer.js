// Pause, resume, drain: what they mean is said before.

import { post } from "./api.js";
import { ask, h, toast } from "./dom.js";
import { providerName } from "./words.js";

// With several providers one of them is chosen in the question.
export function askPause(names, done) {
  const reason = h("input", { id: "reason", maxlength: "200", placeholder: "e.g. the vendor has an incident", autocomplete: "off" });
  const which = h("select", { id: "which" }, names.map((one) => h("option", { value: one }, providerName(one))));
  const one = names.length === 1;
  ask({
    title: one ? `Pause ${providerName(names[0])}?` : "Pause a provider?",
    body: h(
      "div.dialog-body",
      null,
      h("p", null, "Nothing new is sent to be paid. Jobs wait in line, and videos that are under way are still followed and stored."),
      one ? null : h("div.field", null, h("label", { for: "which" }, "Provider"), which),
      h("div.field", null, h("label", { for: "reason" }, "Reason, for those who wonder"), reason),
    ),
    confirm: "Pause",
    act: async () => done(await post("/api/queue/pause", { provider: which.value, reason: reason.value.trim() })),
  });
}

// null ends the pause of all of them.
export async function resume(provider, done) {
  try {
    done(await post("/api/queue/resume", provider ? { provider } : {}));
    toast(`${provider ? providerName(provider) : "Everything"} goes on.`);
  } catch (problem) {
    toast(problem.message, "bad");
  }
}

export function askDrain(done) {
  ask({
    title: "Drain the queue?",
    body: h("p", null, "Nothing new is begun at any provider, and what is under way comes to its end. Once nothing is active any more it is safe to move or upgrade; Resume goes back to work."),
    confirm: "Drain",
    act: async () => done(await post("/api/queue/drain")),
  });
}
