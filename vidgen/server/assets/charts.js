// Small charts drawn by hand, each with the same numbers as a table.

import { h, put, show, svg, swap } from "./dom.js";
import { atClock, exactly, onDay } from "./words.js";

const HEIGHT = 132;
const LEFT = 40;
const BOTTOM = 18;
const TOP = 6;
const DAY_S = 86_400;

// series: [{name, mark: "bar" | "line", class, of(bucket)}]; bars stand on one another.
// An empty chart reaches up to `least`; `round` gives the top of one that is not.
export function chart({ title, series, format, figure, least, round = decimal }) {
  const headline = h("span.figure");
  const plot = h("div.plot");
  const tip = h("div.tip", { hidden: true });
  const rows = h("tbody");
  const table = h(
    "details.table-of",
    null,
    h("summary", null, "As a table"),
    h("div.scroll", { tabindex: "0", role: "region", aria: { label: `${title} as a table` } }, h("table.tight", null, h("thead", null, h("tr", null, h("th", { scope: "col" }, "From"), series.map((one) => h("th.number", { scope: "col" }, one.name)))), rows)),
  );
  const legend = h("div.legend", { aria: { hidden: "true" } }, series.length > 1 ? series.map((one) => h("span", null, h("i", { class: one.class }), one.name)) : null);
  const root = h("figure.panel.chart", { role: "group", aria: { label: title } }, h("div.chart-head", null, h("h2", null, title), headline), legend, plot, table);
  let stats = null;
  let cursor = null;
  let spots = [];

  new ResizeObserver(() => draw()).observe(plot);
  plot.addEventListener("pointermove", point);
  plot.addEventListener("pointerleave", () => {
    show(tip, false);
    cursor?.setAttribute("visibility", "hidden");
  });
  table.addEventListener("toggle", () => table.open && tabulate());

  function draw() {
    const width = plot.clientWidth;
    if (!stats || width === 0) return;
    const { buckets } = stats;
    const values = buckets.map((bucket) => series.map((one) => one.of(bucket)));
    const stacked = series.every((one) => one.mark === "bar");
    const top = round(Math.max(least, ...values.map((of) => (stacked ? of.reduce((sum, value) => sum + (value ?? 0), 0) : Math.max(...of.map((value) => value ?? 0))))));
    const step = (width - LEFT) / Math.max(1, buckets.length);
    const x = (index) => LEFT + step * (index + 0.5);
    const y = (value) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / top);
    spots = buckets.map((_, index) => x(index));
    cursor = svg("line.cursor", { y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" });
    const picture = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", aria: { label: `${title}: ${figure(stats)}; the table below has the numbers` } });
    for (const part of [0, 0.5, 1]) {
      const at = Math.round(y(top * part)) + 0.5;
      picture.append(svg("line.grid", { x1: LEFT, x2: width, y1: at, y2: at }), svg("text", { x: LEFT - 7, y: at + 3, "text-anchor": "end" }, format(top * part)));
    }
    for (const [at, index] of marks(buckets, width)) picture.append(svg("text", { x: at === "end" ? width : x(index), y: HEIGHT - 3, "text-anchor": at }, label(buckets[index].at)));
    picture.append(cursor);
    if (stacked) bars(picture, values, step, x, y);
    else series.forEach((one, place) => line(picture, one, values.map((of) => of[place]), x, y));
    swap(plot, picture, tip);
  }

  function bars(picture, values, step, x, y) {
    const wide = Math.max(1, Math.min(step - (step > 6 ? 2 : 0.5), 18));
    values.forEach((of, index) => {
      let below = 0;
      of.forEach((value, place) => {
        if (!value) return;
        const height = Math.max(1, y(below) - y(below + value));
        picture.append(svg("rect", { class: series[place].class, x: x(index) - wide / 2, y: y(below + value), width: wide, height, rx: Math.min(1.5, height / 2) }));
        below += value;
      });
    });
  }

  // A bucket without a video interrupts the line; one alone is a dot.
  function line(picture, one, values, x, y) {
    let path = "";
    values.forEach((value, index) => {
      if (value === null || value === undefined) return;
      const follows = index > 0 && values[index - 1] !== null && values[index - 1] !== undefined;
      path += `${follows ? "L" : "M"}${x(index).toFixed(1)} ${y(value).toFixed(1)}`;
      const lonely = !follows && (values[index + 1] === null || values[index + 1] === undefined);
      if (lonely) picture.append(svg("circle.mark-dot", { class: one.class, cx: x(index), cy: y(value), r: 2 }));
    });
    if (path) picture.append(svg("path", { class: one.class, d: path }));
  }

  // Three labels in words of time: the first, one in the middle, the last.
  function marks(buckets, width) {
    if (buckets.length === 0) return [];
    const last = buckets.length - 1;
    return width > 220 && last > 2 ? [["start", 0], ["middle", Math.round(last / 2)], ["end", last]] : [["start", 0], ["end", last]];
  }

  const label = (iso) => (stats.hours * 3600 > DAY_S * 1.5 ? onDay(iso) : atClock(iso));

  function point(event) {
    if (!stats || spots.length === 0) return;
    const box = plot.getBoundingClientRect();
    const at = event.clientX - box.left;
    const step = spots.length > 1 ? spots[1] - spots[0] : box.width;
    const index = Math.max(0, Math.min(spots.length - 1, Math.floor((at - LEFT) / step)));
    const bucket = stats.buckets[index];
    put(tip, [exactly(bucket.at), ...series.map((one) => `${one.name}: ${told(one, bucket)}`)].join("\n"));
    show(tip, true);
    cursor.setAttribute("visibility", "visible");
    cursor.setAttribute("x1", spots[index]);
    cursor.setAttribute("x2", spots[index]);
    const right = spots[index] > box.width / 2;
    tip.style.left = right ? "auto" : `${spots[index] + 8}px`;
    tip.style.right = right ? `${box.width - spots[index] + 8}px` : "auto";
  }

  function told(one, bucket) {
    const value = one.of(bucket);
    return value === null || value === undefined ? "–" : format(value);
  }

  function tabulate() {
    const some = stats.buckets.filter((bucket) => series.some((one) => one.of(bucket)));
    swap(rows, some.length === 0 ? h("tr", null, h("td.muted", { colspan: series.length + 1 }, "Nothing in this time")) : some.map((bucket) => h("tr", null, h("td", null, exactly(bucket.at)), series.map((one) => h("td.number", null, told(one, bucket))))));
  }

  return {
    root,
    tell(news) {
      stats = news;
      put(headline, figure(stats));
      draw();
      if (table.open) tabulate();
    },
  };
}

// The next number whose half is a round one, too.
export function decimal(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 3, 4, 6, 8, 10].find((digit) => digit * power >= value) * power;
}

export function clockwise(seconds) {
  return [10, 20, 30, 60, 120, 240, 360, 600, 1200, 1800, 3600].find((step) => step >= seconds) ?? decimal(seconds / 3600) * 3600;
}
