// Elements without markup: everything here is made by createElement and textContent, so a prompt
// or a scene id can never become more than text.

const SVG = "http://www.w3.org/2000/svg";

// h("a.button", {href, onclick, aria: {label}, data: {id}}, "text", child, …); null children are left out.
export function h(tag, props, ...children) {
  const [name, ...classes] = tag.split(".");
  return fill(document.createElement(name), classes, props, children);
}

export function svg(tag, props, ...children) {
  const [name, ...classes] = tag.split(".");
  return fill(document.createElementNS(SVG, name), classes, props, children);
}

function fill(node, classes, props, children) {
  if (classes.length) node.setAttribute("class", classes.join(" "));
  for (const [key, value] of Object.entries(props ?? {})) set(node, key, value);
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

function set(node, key, value) {
  if (value === null || value === undefined) return;
  if (key === "aria" || key === "data") {
    for (const [name, word] of Object.entries(value)) {
      if (word !== null && word !== undefined) node.setAttribute(`${key}-${name}`, String(word));
    }
  } else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
  else if (key === "text") node.textContent = value;
  else if (key === "class") node.setAttribute("class", `${node.getAttribute("class") ?? ""} ${value}`.trim());
  else if (typeof value === "boolean") node.toggleAttribute(key, value);
  else if (key === "value" && "value" in node) node.value = value;
  else node.setAttribute(key, String(value));
}

// Writes only what differs: the browser keeps selection, focus and scroll position, and screen
// readers are not told the same again.
export function put(node, text) {
  const wanted = text ?? "";
  if (node.textContent !== wanted) node.textContent = wanted;
}

export function attr(node, name, value) {
  if (value === null || value === undefined || value === false) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value === true ? "" : value)) node.setAttribute(name, value === true ? "" : String(value));
}

export function show(node, visible) {
  if (node.hidden === visible) node.hidden = !visible;
}

// Puts `children` in place of what is there; for small parts that hold no focus.
export function swap(node, ...children) {
  node.replaceChildren(...children.flat(Infinity).filter(Boolean));
}

// Makes the children of `parent` the ones of `items`, in order, and keeps those that stay: a row
// that has the focus keeps it, and only rows that are new are made.
export function reconcile(parent, items, key, make, update) {
  const rows = new Map();
  for (const child of parent.children) if (child.dataset.key !== undefined) rows.set(child.dataset.key, child);
  let before = parent.firstElementChild;
  for (const item of items) {
    const id = String(key(item));
    let row = rows.get(id);
    if (row) rows.delete(id);
    else {
      row = make(item);
      row.dataset.key = id;
    }
    if (row === before) before = before.nextElementSibling;
    else parent.insertBefore(row, before);
    update(row, item);
  }
  for (const row of rows.values()) row.remove();
}

const PATHS = {
  overview: "M2.500 13.500V8.500M6.200 13.500V2.500M9.800 13.500V6.500M13.500 13.500V4.500",
  jobs: "M2.500 4h11M2.500 8h11M2.500 12h7",
  failed: "M8 5v3.500M8 11h.01M8 1.800 14.500 13.500h-13z",
  workers: "M3 3h10v4H3zM3 9h10v4H3zM5.200 5h.01M5.200 11h.01",
  providers: "M8 1.800 14 5v6l-6 3.200L2 11V5zM2 5l6 3.200L14 5M8 8.200v6",
  money: "M8 1.800v12.400M11.200 4.500c-.6-1-1.800-1.500-3.200-1.500-1.900 0-3.300.9-3.300 2.400 0 3.300 6.800 1.700 6.800 5.100 0 1.600-1.500 2.500-3.500 2.500-1.600 0-2.900-.6-3.500-1.700",
  audit: "M4 1.800h5.500L12.500 5v9.200H4zM6.500 7.500h4M6.500 10.500h4",
  plus: "M8 3v10M3 8h10",
  copy: "M5.500 5.500h8v8h-8zM10.500 5.500v-3h-8v8h3",
  check: "M3 8.500 6.500 12 13 4.500",
  retry: "M13 8a5 5 0 1 1-1.600-3.700M13 2v3h-3",
  stop: "M4 4l8 8M12 4l-8 8",
  pause: "M5.500 3.500v9M10.500 3.500v9",
  play: "M5 3v10l8-5z",
  drain: "M8 2.500v8M4.500 7.500 8 11l3.500-3.500M3 13.500h10",
  download: "M8 2.500v7.500M4.800 7 8 10.200 11.200 7M3 13.500h10",
  sun: "M8 5.200a2.800 2.800 0 1 0 0 5.600 2.800 2.800 0 0 0 0-5.600M8 1.500v1.300M8 13.200v1.300M1.500 8h1.300M13.200 8h1.300M3.400 3.400l.9.9M11.700 11.700l.9.9M3.400 12.600l.9-.9M11.700 4.300l.9-.9",
  moon: "M13.500 9.300A5.800 5.800 0 0 1 6.700 2.500a5.800 5.800 0 1 0 6.800 6.800z",
  system: "M2 3h12v8H2zM6 13.800h4M8 11v2.800",
  logout: "M6 2.500H3v11h3M10.500 5 13.500 8l-3 3M13 8H6.500",
  back: "M9.500 3.500 5 8l4.500 4.500",
  next: "M6.500 3.500 11 8l-4.500 4.500",
  film: "M2.500 3h11v10h-11zM5 3v10M11 3v10M2.500 6.300H5M2.500 9.700H5M11 6.300h2.500M11 9.700h2.500",
};

export function icon(name) {
  return svg(
    "svg.icon",
    { viewBox: "0 0 16 16", width: 16, height: 16, aria: { hidden: "true" }, focusable: "false" },
    svg("path", { d: PATHS[name] }),
  );
}

export function button(label, { kind = "", glyph = null, ...props } = {}) {
  return h(`button.button${kind ? `.${kind}` : ""}`, { type: "button", ...props }, glyph && icon(glyph), h("span", null, label));
}

export function toast(text, kind = "") {
  const node = h("div.toast", { class: kind }, text);
  document.getElementById("toasts").append(node);
  setTimeout(() => node.remove(), kind === "bad" ? 9000 : 5000);
}

export function empty(glyph, title, ...more) {
  return h("div.empty", null, icon(glyph), h("p.empty-title", null, title), more.length ? h("p", null, ...more) : null);
}

// A question in a <dialog>: the browser keeps the focus inside, closes on Escape and gives the focus
// back to what opened it. `act` runs on confirm; while it runs the buttons rest, and what it
// throws is shown and can be tried again.
export function ask({ title, body, confirm, kind = "primary", act, dismiss = "Not now" }) {
  const error = h("p.error", { role: "alert", hidden: true });
  const yes = h("button.button", { class: kind, type: "submit" }, confirm);
  const no = button(dismiss, { onclick: () => dialog.close() });
  const form = h(
    "form",
    {
      method: "dialog",
      onsubmit: async (event) => {
        event.preventDefault();
        yes.disabled = true;
        show(error, false);
        try {
          await act();
          dialog.close();
        } catch (problem) {
          put(error, problem.message);
          show(error, true);
          yes.disabled = false;
        }
      },
    },
    h("h2", { id: "dialog-title" }, title),
    body,
    error,
    h("div.dialog-actions", null, no, yes),
  );
  const dialog = h("dialog", { aria: { labelledby: "dialog-title" }, onclose: () => dialog.remove() }, form);
  document.body.append(dialog);
  dialog.showModal();
  return { dialog, yes };
}
