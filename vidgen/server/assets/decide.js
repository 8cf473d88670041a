// Questions before money is spent or thrown away, with the truth about it.

import { post } from "./api.js";
import { ask, h } from "./dom.js";
import { cost, money, providerName } from "./words.js";

export function askCancel(job, done) {
  const who = providerName(job.provider);
  const sum = cost(job) === null ? "its price" : money(cost(job));
  const discard = h("input", { type: "checkbox", id: "discard" });
  const free = job.stage === "queued";
  const truth = {
    queued: "Nothing was sent yet, so cancelling is free.",
    submitting: `The paid request may be on its way. If ${who} took it, ${sum} may be billed.`,
    generating: `${who} is making the video. It is stopped there where that is possible; ${sum} may be billed all the same.`,
    transferring: `The video is already made, and ${sum} is due whatever happens now. It is kept and the job completes, unless you discard it.`,
  }[job.stage];
  ask({
    title: "Cancel this job?",
    body: h(
      "div.dialog-body",
      null,
      h("p", null, truth),
      free ? null : h("label.choice", null, discard, h("span", null, "Discard the video, too, if it gets finished meanwhile")),
    ),
    confirm: "Cancel the job",
    dismiss: "Let it go on",
    kind: "danger",
    act: async () => {
      const then = await post(`/api/jobs/${job.id}/cancel`, { discard: discard.checked });
      done(then.status === "cancelled" ? "Cancelled." : "The cancel is on its way.");
    },
  });
}

export function askRetry(job, done) {
  const { pays_again: pays, cost_micros: estimate } = job.retry;
  const sum = (micros) => (micros === null || micros === undefined ? "an unknown price" : `about ${money(micros)}`);
  const anew = h("input", { type: "checkbox", id: "anew" });
  ask({
    title: pays ? "Buy a new video?" : "Go on with the paid video?",
    body: h(
      "div.dialog-body",
      null,
      h(
        "p",
        null,
        pays
          ? `What was made before cannot be had any more. A retry makes a new video for ${sum(estimate)}.`
          : "The video that is paid already may still be had: the retry goes on there, and nothing is paid again.",
      ),
      job.error_code === "submit_unknown" ? h("p", null, "Nobody knows whether the first request arrived; if it did, the video is paid twice.") : null,
      pays ? null : h("label.choice", null, anew, h("span", null, `Make a new one instead, for ${sum(job.estimated_cost_micros)}`)),
    ),
    confirm: pays ? `Retry for ${estimate === null ? "an unknown price" : money(estimate)}` : "Retry",
    act: async () => {
      await post(`/api/jobs/${job.id}/retry`, { anew: anew.checked });
      done("The job goes on.");
    },
  });
}
