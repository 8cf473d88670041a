// A new video: only what the chosen model can do, with the price before the click.

import { get, post, uuid } from "./api.js";
import { attr, button, empty, h, icon, put, show, swap, toast } from "./dom.js";
import { priceOf, priceRange } from "./price.js";
import { money, nameProviders, providerName } from "./words.js";

export const name = "make";
export const title = () => "New video";

const MAX_IMAGE_BYTES = 20 * 1024 * 1024;
const ROLES = { first_frame: "First frame", last_frame: "Last frame", reference: "Reference" };

export function mount(root, context) {
  let providers = [];
  let routes = [];
  let set = {}; // what the route sets, whatever is asked for
  let unlisted = null; // the model of the route that is none of those listed here
  let standsIn = false; // it is not the first of the route
  let wanted = true; // whether there is to be sound where the route leaves that open
  let gone = false;
  let loading = false;
  let sent = null; // the idempotency key of this wish, and the wish: one wish never becomes two videos
  const images = [];
  const fallbacks = [];

  if (!context.acts) {
    root.append(h("div.head", null, context.heading), h("div.panel", null, empty("film", "Your role may look and not act")));
    return {};
  }

  const prompt = h("textarea", { id: "prompt", rows: "6", required: true, placeholder: "A tram in the rain, seen from above, slow camera", oninput: count });
  const counter = h("p.hint", { id: "prompt-count" });
  prompt.setAttribute("aria-describedby", "prompt-count");
  const route = h("select", { id: "route", onchange: chooseRoute, "aria-describedby": "route-about" });
  const routeAbout = h("p.hint", { id: "route-about" });
  const routeField = h("div.field", { hidden: true }, h("label", { for: "route" }, "Route"), route, routeAbout);
  const model = h("select", { id: "model", onchange: chooseModel });
  const about = h("p.hint");
  const modelField = h("div.field", null, h("label", { for: "model" }, "Model"), model, about);
  const seconds = h("div.options");
  const shape = h("div.options");
  const resolution = h("div.options");
  const secondsField = group("Length", seconds);
  const resolutionField = group("Resolution", resolution);
  const shapeField = group("Size", shape);
  const audio = h("input", { type: "checkbox", id: "audio", checked: true });
  const audioWords = h("span", null, "With sound");
  const audioField = h("label.choice", null, audio, audioWords);
  const negative = h("input", { id: "negative", autocomplete: "off" });
  const negativeField = field("Not in the picture", negative);
  const seed = h("input", { id: "seed", type: "number", min: "0", max: "4294967295", step: "1" });
  const seedField = field("Seed", seed);
  const optional = h("div.form-row", null, negativeField, seedField);
  const imageList = h("div.field");
  const addImage = button("Add an image", { kind: "small", glyph: "plus", onclick: () => newImage() });
  const imageField = h("div.field", null, h("span.label", null, "Images"), imageList, h("div", null, addImage));
  const fallbackList = h("div.field");
  const addFallback = button("Add a fallback", { kind: "small", glyph: "plus", onclick: () => newFallback() });
  const fallbackField = h("div.field", null, h("p.hint", null, "Who makes it instead, in this order, once it is proven that the one before will not: refused, switched off, out of quota, left alone for a while. Never while it may have been accepted."), fallbackList, h("div", null, addFallback));
  const ceiling = h("input", { id: "ceiling", type: "number", min: "0.01", step: "0.01", placeholder: "no more than the first one" });
  const instead = h("details.more", null, h("summary", null, "If that fails"), h("div", null, fallbackField, field("All attempts may cost, in dollars", ceiling)));
  const scene = h("input", { id: "scene", maxlength: "500", autocomplete: "off" });
  const user = h("input", { id: "user", maxlength: "500", autocomplete: "off" });
  const priority = h("select", { id: "priority" }, [...Array(10).keys()].map((value) => h("option", { value }, value === 0 ? "0, usual" : value === 9 ? "9, first of all" : String(value))));
  const runAt = h("input", { id: "run-at", type: "datetime-local" });
  const webhook = h("input", { id: "webhook", type: "url", placeholder: "https://…", maxlength: "2000", autocomplete: "off" });
  const value = h("span.value", { role: "status" });
  const note = h("p.hint");
  const error = h("p.error", { role: "alert", hidden: true });
  const submit = h("button.button.primary", { type: "submit" }, icon("plus"), h("span", null, "Make the video"));

  const form = h(
    "form.form",
    { onsubmit: send, onchange: price, hidden: true },
    h(
      "div.panel.form-main",
      null,
      h("div.field", null, h("label", { for: "prompt" }, "Prompt"), prompt, counter),
      routeField,
      modelField,
      secondsField,
      shapeField,
      resolutionField,
      optional,
      audioField,
      imageField,
      instead,
      h("details.more", null, h("summary", null, "For whom and when"), h("div", null, h("div.form-row", null, field("Scene", scene), field("User", user), field("Priority", priority)), h("div.form-row", null, field("Not before", runAt), field("Webhook", webhook)))),
    ),
    h("div.panel.form-side.price", null, h("span.muted", null, "Estimated price"), value, note, submit, error),
  );
  const nothing = h("div.panel", { hidden: true });
  root.append(h("div.head", null, context.heading), form, nothing);
  load();

  async function load() {
    loading = true;
    try {
      ({ providers, routes } = await get("/api/providers"));
      nameProviders(providers);
      if (gone) return;
      show(nothing, false);
    } catch (problem) {
      loading = false;
      if (gone) return;
      swap(nothing, empty("failed", "The models cannot be listed", problem.message));
      show(nothing, true);
      return;
    }
    swap(model, providers.filter((provider) => provider.models.length).map((provider) => h("optgroup", { label: `${providerName(provider.name)}${provider.configured ? provider.paused ? ", paused" : "" : ", no key set"}` }, provider.models.map((one) => h("option", { value: `${provider.name}/${one.name}`, disabled: !one.available }, `${one.name}${one.available ? priceRange(one) ? `, ${priceRange(one)} a second` : "" : one.retires_on ? ", switched off" : ", not set up"}`)))));
    const first = [...model.options].find((option) => !option.disabled);
    if (!first) {
      swap(nothing, empty("providers", "No model can be used", "Set a provider's key, or an endpoint that still serves its models, and restart."));
      show(nothing, true);
      return;
    }
    model.value = first.value;
    swap(route, [h("option", { value: "" }, "none, as chosen below"), ...routes.map((one) => h("option", { value: one.name }, one.name))]);
    show(routeField, routes.length > 0);
    chooseRoute();
    show(form, true);
    if (context.query.like) await copyOf(context.query.like);
    if (!gone) prompt.focus({ preventScroll: true });
  }

  async function copyOf(id) {
    try {
      const job = await get(`/api/jobs/${id}`);
      const first = job.targets?.[0] ?? job;
      const option = [...model.options].find((one) => one.value === `${first.provider}/${first.model}` && !one.disabled);
      if (option) model.value = option.value;
      if (routes.some((one) => one.name === job.route)) route.value = job.route;
      chooseRoute();
      const wish = job.target_parameters?.[0] ?? job.parameters;
      if (!route.value) for (const one of job.targets?.slice(1) ?? []) newFallback(`${one.provider}/${one.model}`);
      if (job.max_cost_micros) ceiling.value = String(job.max_cost_micros / 1e6);
      prompt.value = job.prompt ?? "";
      check(seconds, wish.seconds);
      check(shape, wish.size ?? wish.aspect_ratio);
      check(resolution, wish.resolution);
      if (wish.audio !== null && !audio.disabled) audio.checked = wish.audio;
      negative.value = wish.negative_prompt ?? "";
      scene.value = job.scene_id ?? "";
      user.value = job.user_id ?? "";
      for (const image of wish.images ?? []) if (image.url) newImage(image);
      count();
      price();
      if ((wish.images ?? []).some((image) => !image.url)) toast("Its uploaded images are not copied.");
    } catch (problem) {
      toast(problem.message, "bad");
    }
  }

  function chosen() {
    if (unlisted) return unlisted;
    const [providerOf, ...rest] = model.value.split("/");
    const provider = providers.find((one) => one.name === providerOf);
    return { provider, model: provider.models.find((one) => one.name === rest.join("/")) };
  }

  // A route names who makes it: then the form offers what its first target that can be used takes,
  // and shows what the route sets.
  function chooseRoute() {
    const one = routes.find((each) => each.name === route.value);
    show(modelField, !one);
    show(fallbackField, !one);
    put(routeAbout, one ? routeWords(one) : "");
    show(routeAbout, Boolean(one));
    const known = new Map([...model.options].map((option) => [option.value, option]));
    const optionOf = (target) => known.get(`${target.provider}/${target.model}`);
    const targets = one?.targets ?? [];
    const vendorOf = (target) => providers.find((each) => each.name === target.provider);
    const isUsable = (target) => (optionOf(target) ? !optionOf(target).disabled : vendorOf(target)?.configured);
    const target = targets.find(isUsable) ?? targets[0];
    const option = target && optionOf(target);
    unlisted = target && !option ? { provider: vendorOf(target), model: { ...UNLISTED, name: target.model ?? target.provider } } : null;
    if (option) model.value = option.value;
    standsIn = target !== targets[0];
    set = target ? setBy(targets[0], target, chosen().model) : {};
    chooseModel();
  }

  function routeWords(one) {
    const chain = one.targets.map((target) => [providerName(target.provider), target.model].filter(Boolean).join(" ")).join(", then ");
    return one.max_cost_micros ? `${chain}; for ${money(one.max_cost_micros)} in all at most` : chain;
  }

  function chooseModel() {
    const { provider, model: one } = chosen();
    const kept = { seconds: picked(seconds), shape: picked(shape), resolution: picked(resolution) };
    const { ratios } = told(one);
    const offered = offers(one, set);
    options(seconds, "seconds", offered.seconds.map(String), (value) => `${value} s`, kept.seconds ?? String(one.default_seconds));
    options(shape, "shape", offered.shapes, shapeName, kept.shape);
    options(resolution, "resolution", offered.resolutions, (value) => value, kept.resolution);
    legend(secondsField, "Length", offered.isSet.seconds);
    legend(shapeField, ratios ? "Shape" : "Size", offered.isSet.shape);
    legend(resolutionField, "Resolution", offered.isSet.resolution);
    show(resolutionField, offered.resolutions.length > 0);
    show(shapeField, offered.shapes.length > 0);
    show(secondsField, offered.seconds.length > 0);
    show(audioField, one.takes.includes("audio"));
    if (!audio.disabled) wanted = audio.checked;
    audio.disabled = isSaid(set.audio);
    audio.checked = audio.disabled ? set.audio : wanted;
    put(audioWords, audio.disabled ? "With sound: set by the route" : "With sound");
    show(negativeField, one.takes.includes("negative_prompt"));
    show(seedField, one.takes.includes("seed"));
    show(optional, !negativeField.hidden || !seedField.hidden);
    show(imageField, one.image_roles.length > 0);
    for (const image of images) image.offer(one.image_roles);
    put(about, [provider?.paused ? `${providerName(provider.name)} is paused: the job will wait.` : null, one.retires_on ? `Its vendor ${one.retires_on > new Date().toISOString() ? "switches" : "switched"} it off at its own endpoint on ${one.retires_on}.` : null].filter(Boolean).join(" "));
    show(about, about.textContent !== "");
    count();
    price();
  }

  // Some resolutions exist at the longest length only: the others cannot be chosen then.
  function fit() {
    const { model: one } = chosen();
    const longest = String(one.seconds.at(-1));
    const full = one.full_length_only?.includes(picked(resolution));
    for (const input of seconds.querySelectorAll("input")) input.disabled = Boolean(full) && input.value !== longest;
    if (full) check(seconds, longest);
  }

  function wish() {
    const { provider, model: one } = chosen();
    const { ratios } = told(one);
    return {
      ...(route.value ? { route: route.value } : { provider: provider.name, model: one.name }),
      prompt: prompt.value.trim(),
      ...(one.seconds.length && !(standsIn && set.seconds) ? { seconds: Number(picked(seconds)) } : {}), // the first may make none as short
      ...(ratios ? { aspect_ratio: picked(shape) } : { size: picked(shape) }),
      resolution: picked(resolution),
      ...(one.takes.includes("audio") ? { audio: audio.checked } : {}),
      ...(one.takes.includes("negative_prompt") && negative.value.trim() ? { negative_prompt: negative.value.trim() } : {}),
      ...(one.takes.includes("seed") && seed.value !== "" ? { seed: Number(seed.value) } : {}),
      ...(fallbacks.length && !route.value ? { fallbacks: fallbacks.map((one) => one.wish()) } : {}),
      ...(ceiling.value ? { max_cost_micros: Math.round(Number(ceiling.value) * 1e6) } : {}),
      ...(images.length ? { images: images.map((image) => image.wish()) } : {}),
      ...(scene.value.trim() ? { scene_id: scene.value.trim() } : {}),
      ...(user.value.trim() ? { user_id: user.value.trim() } : {}),
      ...(priority.value !== "0" ? { priority: Number(priority.value) } : {}),
      ...(runAt.value ? { run_at: new Date(runAt.value).toISOString() } : {}),
      ...(webhook.value.trim() ? { webhook_url: webhook.value.trim() } : {}),
    };
  }

  function price() {
    fit();
    const { model: one } = chosen();
    const length = Number(picked(seconds)) || null;
    put(value, money(priceOf(one, { ...wish(), seconds: length })));
    put(note, unlisted ? `${one.name} is not listed here, nor is its price; what is billed is told when it is done.` : `${length ? `${length} s of ` : ""}${one.name}${standsIn ? ", since those before it in the route cannot be used now" : ""}. The vendor's list price; what is billed is told when it is done.`);
  }

  function count() {
    put(counter, `${prompt.value.length} characters`);
  }

  function newImage(from = null) {
    const number = images.length ? images.at(-1).number + 1 : 1;
    const role = h("select", { aria: { label: `Role of image ${number}` } });
    const url = h("input", { type: "url", placeholder: "https://… or choose a file", aria: { label: `Address of image ${number}` }, value: from?.url ?? "" });
    const file = h("input", { type: "file", accept: "image/png,image/jpeg,image/webp", aria: { label: `File of image ${number}` }, onchange: take });
    const remove = h("button.button.ghost.bare", { type: "button", title: "Remove", aria: { label: `Remove image ${number}` }, onclick: drop }, icon("stop"));
    const row = h("div.image-row", null, role, h("div.field", null, url, file), remove);
    let data = null;
    const image = {
      number,
      offer(roles) {
        const before = role.value || from?.role;
        swap(role, roles.map((one) => h("option", { value: one }, ROLES[one] ?? one)));
        if (roles.includes(before)) role.value = before;
      },
      wish: () => ({ role: role.value, ...(data ? { data } : { url: url.value.trim() }) }),
    };
    image.offer(chosen().model.image_roles);
    images.push(image);
    imageList.append(row);

    async function take() {
      const [picked] = file.files;
      data = null;
      if (!picked) return;
      if (picked.size > MAX_IMAGE_BYTES) {
        toast("An image may have 20 MiB.", "bad");
        file.value = "";
        return;
      }
      const reader = new FileReader();
      reader.onload = () => {
        data = reader.result.slice(reader.result.indexOf(",") + 1);
        url.value = "";
      };
      reader.readAsDataURL(picked);
    }

    function drop() {
      images.splice(images.indexOf(image), 1);
      row.remove();
      addImage.focus();
    }
  }

  function newFallback(wanted = null) {
    const number = fallbacks.length ? fallbacks.at(-1).number + 1 : 1;
    const select = h("select", { aria: { label: `Fallback ${number}` } });
    swap(select, [...model.children].map((group) => group.cloneNode(true)));
    const other = [...select.options].find((one) => !one.disabled && !one.value.startsWith(`${chosen().provider.name}/`));
    const option = [...select.options].find((one) => one.value === wanted) ?? other;
    if (option) select.value = option.value;
    const remove = h("button.button.ghost.bare", { type: "button", title: "Remove", aria: { label: `Remove fallback ${number}` }, onclick: drop }, icon("stop"));
    const wrong = h("p.error", { id: `fallback-${number}-wrong`, hidden: true });
    attr(select, "aria-describedby", wrong.id);
    const row = h("div.field", null, h("div.fallback-row", null, select, remove), wrong);
    const one = {
      number,
      complain(words) {
        put(wrong, words);
        show(wrong, words !== "");
        attr(select, "aria-invalid", words ? "true" : null);
        if (words) select.focus();
      },
      wish() {
        const [provider, ...name] = select.value.split("/");
        return { provider, model: name.join("/") };
      },
    };
    fallbacks.push(one);
    fallbackList.append(row);

    function drop() {
      fallbacks.splice(fallbacks.indexOf(one), 1);
      row.remove();
      addFallback.focus();
    }
  }

  // The sentence names what it is about: that is marked, and a fallback has the sentence itself.
  function point(message) {
    const [, position] = /^fallbacks[[.](\d+)/.exec(message) ?? [];
    const one = route.value ? null : fallbacks[Number(position)];
    if (one || /max_cost/.test(message)) instead.open = true;
    if (one) one.complain(message.replace(/^fallbacks\S+ (\([^)]*\): )?/, ""));
    else if (position !== undefined || /route/.test(message)) attr(route, "aria-invalid", "true");
    else if (/prompt/i.test(message)) attr(prompt, "aria-invalid", "true");
    if (/max_cost/.test(message)) attr(ceiling, "aria-invalid", "true");
  }

  async function send(event) {
    event.preventDefault();
    const made = wish();
    const words = JSON.stringify(made);
    // The same wish sent again after an error is the same video; another wish is another one.
    if (sent?.words !== words) sent = { words, key: uuid() };
    submit.disabled = true;
    show(error, false);
    for (const node of [prompt, route, ceiling]) attr(node, "aria-invalid", null);
    for (const one of fallbacks) one.complain("");
    try {
      const job = await post("/api/jobs", made, { headers: { "Idempotency-Key": sent.key } });
      context.askQueue();
      context.navigate(`/jobs/${job.id}`);
    } catch (problem) {
      put(error, problem.message);
      show(error, true);
      point(problem.message);
    } finally {
      submit.disabled = false;
    }
  }

  return {
    refresh: () => loading || load(), // until the models were told once
    unmount() {
      gone = true;
    },
  };
}

function field(label, input) {
  return h("div.field", null, h("label", { for: input.id }, label), input);
}

function group(label, content) {
  return h("fieldset.field", null, h("legend", null, label), content);
}

function options(holder, key, values, words, wanted) {
  swap(holder, values.map((value) => h("label", null, h("input", { type: "radio", name: key, value }), h("span", null, words(value)))));
  check(holder, values.includes(wanted) ? wanted : values[0]);
}

// In which words a model is told its shape; what is undefined is left out of the wish.
function told(model) {
  const ratios = model.aspect_ratios.length > 0;
  return { ratios, resolutions: ratios || !model.sizes.length ? model.resolutions : [] };
}

const shapes = (model) => (model.aspect_ratios.length ? model.aspect_ratios : model.sizes);

// A model that the catalog takes on trust: nobody knows here what it offers, and what that costs.
const UNLISTED = { seconds: [], default_seconds: null, sizes: [], aspect_ratios: [], resolutions: [], full_length_only: [], resolution_of: {}, price_micros_per_second: {}, silent_price_micros_per_second: {}, image_roles: [], takes: [], retires_on: null };

const isSaid = (value) => value !== null && value !== undefined;

// What a route sets for `target`, which is `model`: its own words, and those of the first of the
// route as far as the model has them, for each target is asked for what the first one was.
function setBy(first, target, model) {
  const own = said(target);
  if (first === target) return own;
  const { seconds, size, aspect_ratio, resolution, audio } = said(first);
  const shaped = ["size", "aspect_ratio", "resolution"].some((name) => name in own);
  const had = {
    seconds: isSaid(seconds) ? model.seconds.findLast((each) => each <= seconds) : undefined,
    audio,
    ...(shaped ? {} : { size: has(model.sizes, size), aspect_ratio: has(model.aspect_ratios, aspect_ratio), resolution: has(model.resolutions, resolution) }),
  };
  return { ...said(had), ...own };
}

const said = ({ seconds, size, aspect_ratio, resolution, audio }) => Object.fromEntries(Object.entries({ seconds, size, aspect_ratio, resolution, audio }).filter(([, value]) => isSaid(value)));

const has = (values, value) => (values.includes(value) ? value : undefined);

// What can be chosen of a model beside what the route sets, which stands alone in its list.
function offers(model, set) {
  const { ratios, resolutions } = told(model);
  const resolution = set.resolution ?? model.resolution_of?.[set.size];
  let some = shapes(model);
  if (ratios && set.aspect_ratio) some = [set.aspect_ratio];
  else if (ratios && set.size) some = some.filter((value) => Math.abs(wideness(value) / wideness(set.size) - 1) <= 0.05);
  else if (set.size) some = [set.size];
  else if (!ratios && set.resolution) some = some.filter((value) => model.resolution_of?.[value] === set.resolution);
  return {
    seconds: model.seconds.length && set.seconds ? [set.seconds] : model.seconds,
    shapes: some,
    resolutions: resolutions.length && resolution ? [resolution] : resolutions,
    isSet: { seconds: isSaid(set.seconds), shape: isSaid(set.size) || (ratios && isSaid(set.aspect_ratio)), resolution: isSaid(resolution) },
  };
}

function legend(field, name, isSet) {
  field.querySelector("legend").textContent = isSet ? `${name}, set by the route` : name;
  field.disabled = isSet;
}

function wideness(shape) {
  const [wide, high] = shape.split(/[x:]/).map(Number);
  return wide / high;
}

const picked = (holder) => holder.querySelector("input:checked")?.value;

function check(holder, value) {
  for (const input of holder.querySelectorAll("input")) if (input.value === String(value)) input.checked = true;
}

function shapeName(value) {
  const [wide, high] = value.split(/[x:]/).map(Number);
  return `${value.replace("x", " × ")} ${wide > high ? "landscape" : "upright"}`;
}
