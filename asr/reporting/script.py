"""The script of a report: nothing on the page needs it, and it asks nobody for anything but a watched page's own server.

It lets the reader choose over what curves are drawn, read values by pointer or by arrow keys, and hide runs. All that it
knows is in the markup: the points of the drawn lines, the scales of each image (``svg.py``), and, for each run, how many
steps, seconds and bytes belong to which sample (``axes.py``). It never makes markup of a text.
"""

SCRIPT = r"""
(() => {
"use strict";
const all = (root, selector) => [...root.querySelectorAll(selector)];
const numbers = (text) => (text ? text.split(" ").map(Number) : []);
const svgElement = (name) => document.createElementNS("http://www.w3.org/2000/svg", name);

// ---------------------------------------------------------------- what the reader has chosen, kept over a reload
const key = "murmuration:" + location.pathname;
let chosen = { over: "samples", hidden: [] };
try { chosen = { ...chosen, ...JSON.parse(sessionStorage.getItem(key) || "{}") }; } catch { /* storage is off */ }
const keep = () => { try { sessionStorage.setItem(key, JSON.stringify(chosen)); } catch { /* storage is off */ } };

// ---------------------------------------------------------------- numbers for people
const compact = (value) => {
  for (const [size, letter] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]])
    if (Math.abs(value) >= size) return +(value / size).toPrecision(4) + letter;
  return String(+value.toPrecision(4));
};
const units = {
  samples: (span) => [1, "", compact], steps: (span) => [1, "", compact],
  bytes: (span) => [1, "B", (value) => compact(value).replace(/([kMGT]?)$/, "\u202f$1")],
  seconds: (span) => span > 7200 ? [3600, " h", compact] : span > 120 ? [60, " min", compact] : [1, " s", compact],
};
const shown = (value, over, span) => {
  const [size, unit, text] = units[over](span);
  return text(value / size) + unit;
};

// ---------------------------------------------------------------- over what curves are drawn
const scales = {};
for (const each of all(document, ".scale")) {
  scales[each.dataset.run] = Object.fromEntries(Object.keys(units).map((name) => [name, numbers(each.dataset[name])]));
}
const interpolate = (x, xs, ys) => {
  let low = 0, high = xs.length - 1;
  if (high < 0) return NaN;
  if (x <= xs[0]) return xs[0] > 0 ? ys[0] * Math.max(x, 0) / xs[0] : ys[0];
  if (x >= xs[high]) return ys[high];
  while (high - low > 1) { const middle = (low + high) >> 1; if (xs[middle] <= x) low = middle; else high = middle; }
  return ys[low] + (ys[high] - ys[low]) * (x - xs[low]) / (xs[high] - xs[low]);
};
const pairs = /(-?[\d.]+) (-?[\d.]+)/g;

class Chart {
  constructor(figure) {
    this.figure = figure;
    this.svg = figure.querySelector("svg.plot");
    this.box = numbers(this.svg.dataset.box);
    this.samples = numbers(this.svg.dataset.x);
    this.limits = this.samples;
    this.over = "samples";
    this.parts = all(this.svg, "[data-part=line],[data-part=back],[data-part=area]").map((group) => ({
      group, run: group.dataset.run, read: group.dataset.part === "line", title: group.querySelector("title").textContent,
      shapes: all(group, group.dataset.part === "area" ? "path[d]" : ":not(defs) > path[d], use[x]")  // defs hold markers
        .map((element) => ({ element, d: element.getAttribute("d"), x: +element.getAttribute("x") })),
    }));
    this.bars = all(this.svg, "[data-part=bar]");
    this.tip = figure.appendChild(document.createElement("div"));
    this.tip.className = "tip";
    this.tip.setAttribute("role", "status");
    this.tip.hidden = true;
    this.cursor = this.svg.appendChild(svgElement("path"));
    this.cursor.setAttribute("class", "cursor");
    this.at = null;
    if (this.parts.some((part) => part.read) || this.bars.length) this.listen();
  }

  toX(pixel) { return this.limits[0] + (pixel - this.box[0]) / (this.box[2] - this.box[0]) * (this.limits[1] - this.limits[0]); }
  toPixel(x) { return this.box[0] + (x - this.limits[0]) / (this.limits[1] - this.limits[0]) * (this.box[2] - this.box[0]); }
  toY(pixel) {
    const [low, high, kind] = this.svg.dataset.y.split(" ");
    const part = (this.box[3] - pixel) / (this.box[3] - this.box[1]);
    return kind === "log" ? low * (high / low) ** part : +low + part * (high - low);
  }

  draw(over) {  // moves every point to where its sample lies on the other scale; heights stay
    this.limits = this.samples;
    this.over = over;
    const moved = (pixel, run) => {
      const scale = scales[run];
      return scale && scale[over].length ? interpolate(this.toX(pixel), scale.samples, scale[over]) : NaN;
    };
    const xs = [];
    for (const part of this.parts)
      for (const shape of part.shapes) {
        shape.values = shape.d === null ? [moved(shape.x, part.run)] : [...shape.d.matchAll(pairs)].map((pair) => moved(+pair[1], part.run));
        xs.push(...shape.values.filter(Number.isFinite));
      }
    if (over !== "samples" && xs.length) {
      const low = xs.reduce((a, b) => Math.min(a, b)), high = xs.reduce((a, b) => Math.max(a, b));
      const margin = 0.02 * (high - low || 1);
      this.limits = [low - margin, high + margin];
    }
    for (const part of this.parts) {
      let known = true;
      for (const shape of part.shapes) {
        let place = 0;
        const pixel = () => this.toPixel(shape.values[place++]).toFixed(2);
        known &&= over === "samples" || shape.values.every(Number.isFinite);
        if (!known) continue;
        if (shape.d === null) shape.element.setAttribute("x", over === "samples" ? shape.x : pixel());
        else shape.element.setAttribute("d", over === "samples" ? shape.d : shape.d.replace(pairs, (_, x, y) => pixel() + " " + y));
      }
      part.group.classList.toggle("unknown", !known);
      part.points = null;
    }
    this.ticks(over);
    for (const each of all(this.figure, ".over")) each.textContent = "over " + { samples: "samples", steps: "global steps", seconds: "time of training", bytes: "bytes sent by all learners" }[over];
    this.hide();
  }

  ticks(over) {
    const axis = this.svg.querySelector(".x-axis");
    for (const each of all(this.svg, ".own-tick")) each.remove();
    for (const each of all(axis, "text")) each.classList.toggle("replaced", over !== "samples");
    const model = axis.querySelector("text");
    if (over === "samples" || !model) return;
    const [low, high] = this.limits, [size] = units[over](high);
    const rough = (high - low) / size / 5, power = 10 ** Math.floor(Math.log10(rough));
    const step = size * power * [1, 2, 2.5, 5, 10].find((each) => each * power >= rough);
    for (let x = Math.ceil(low / step) * step; x <= high; x += step) {
      const tick = model.cloneNode(false);
      tick.setAttribute("x", this.toPixel(x));
      tick.removeAttribute("transform");
      tick.style.textAnchor = "middle";
      tick.setAttribute("class", "own-tick");
      tick.textContent = shown(Math.abs(x) < step / 1e6 ? 0 : x, over, high);
      this.svg.appendChild(tick);
    }
  }

  // -------------------------------------------------------------- values
  points(part) {
    if (!part.points) {
      const line = part.shapes.find((shape) => shape.d !== null);
      part.points = line ? [...line.element.getAttribute("d").matchAll(pairs)].map((pair) => [+pair[1], +pair[2]]) : [];
    }
    return part.points;
  }

  listen() {
    this.svg.tabIndex = 0;
    this.svg.addEventListener("pointermove", (event) => {
      const bar = event.target.closest("[data-part=bar]");
      if (bar) this.bar(this.bars.indexOf(bar));
      else if (!this.bars.length) {
        const rectangle = this.svg.getBoundingClientRect();
        this.read((event.clientX - rectangle.left) / rectangle.width * this.svg.viewBox.baseVal.width);
      }
    });
    this.svg.addEventListener("pointerleave", () => this.hide());
    this.svg.addEventListener("blur", () => this.hide());
    this.svg.addEventListener("keydown", (event) => this.press(event));
  }

  press(event) {
    if (event.key === "Escape") return this.hide();
    const direction = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, Home: -Infinity, End: Infinity }[event.key];
    if (direction === undefined) return;
    event.preventDefault();
    const bounded = (value, low, high) => Math.min(Math.max(value, low), high);
    if (this.bars.length) this.bar(bounded((this.at ?? (direction > 0 ? -1 : 1)) + direction, 0, this.bars.length - 1));
    else {
      const from = this.at ?? (direction > 0 ? -1 : 1e6);
      this.read(from + direction * (this.box[2] - this.box[0]) / 50, (x) => direction * (x - from) > 0.01);
    }
  }

  read(place, allowed = () => true) {  // the point of every line that is nearest to the point nearest to a place
    const parts = this.parts.filter((part) => part.read && !part.group.hasAttribute("hidden")
      && !part.group.classList.contains("unknown") && this.points(part).length);
    const nearest = (points, x) => points.reduce((best, point) => Math.abs(point[0] - x) < Math.abs(best[0] - x) ? point : best);
    const points = parts.flatMap((part) => this.points(part)).filter((point) => allowed(point[0]));
    if (!points.length) return;
    const pixel = nearest(points, Math.min(Math.max(place, -1e6), 1e6))[0];
    const lines = parts.map((part) => part.title + ": " + this.value(this.toY(nearest(this.points(part), pixel)[1])));
    this.at = pixel;
    this.cursor.setAttribute("d", "M" + pixel + " " + this.box[1] + "V" + this.box[3]);
    const where = "at " + shown(Math.max(this.toX(pixel), 0), this.over, this.limits[1]) + (this.over === "samples" || this.over === "steps" ? " " + this.over : "");
    this.show([where, ...lines], pixel);
  }

  value(y) { return this.figure.dataset.form === "bytes" ? shown(y, "bytes") : compact(y); }

  bar(index) {
    this.at = index;
    this.bars.forEach((each, place) => each.classList.toggle("chosen", place === index));
    const box = this.bars[index].getBBox();
    this.show([this.bars[index].querySelector("title").textContent], box.x + box.width / 2);
  }

  show(lines, pixel) {
    this.tip.replaceChildren(...lines.map((line) => Object.assign(document.createElement("div"), { textContent: line })));
    this.tip.hidden = false;
    this.tip.classList.toggle("left", pixel > this.svg.viewBox.baseVal.width / 2);
  }

  hide() {
    this.tip.hidden = true;
    this.cursor.setAttribute("d", "");
    this.at = null;
    for (const each of this.bars) each.classList.remove("chosen");
  }
}

const charts = all(document, "figure").filter((figure) => figure.querySelector("svg.plot[data-box]")).map((figure) => new Chart(figure));
const drawOver = (over) => {
  chosen.over = over;
  for (const chart of charts) if (chart.figure.dataset.over) chart.draw(over);
  keep();
};

// ---------------------------------------------------------------- runs
const boxes = all(document, ".controls input[type=checkbox]");
const hideRuns = () => {
  const hidden = new Set(boxes.filter((box) => !box.checked).map((box) => box.value));
  for (const each of all(document, "[data-run]")) if (!each.closest(".controls, .scale")) each.toggleAttribute("hidden", hidden.has(each.dataset.run));
  chosen.hidden = boxes.filter((box) => !box.checked).map((box) => box.dataset.name);
  for (const chart of charts) chart.hide();
  keep();
};
for (const box of boxes) {
  box.checked = !chosen.hidden.includes(box.dataset.name);
  box.addEventListener("change", hideRuns);
}
for (const filter of all(document, ".controls input[type=search]"))
  filter.addEventListener("input", () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const box of boxes) box.checked = words.every((word) => box.dataset.name.toLowerCase().includes(word));
    hideRuns();
  });
for (const filter of all(document, "input[data-filters]")) {
  const rows = all(document.getElementById(filter.dataset.filters), "tbody tr");
  filter.addEventListener("input", () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
  });
}
const radios = all(document, ".controls input[type=radio]");
for (const radio of radios) {
  radio.checked = radio.value === chosen.over;
  radio.addEventListener("change", () => drawOver(radio.value));
}
for (const each of all(document, ".controls")) each.hidden = false;
if (chosen.hidden.length) hideRuns();
if (chosen.over !== "samples" && radios.some((radio) => radio.checked)) drawOver(chosen.over);

// ---------------------------------------------------------------- a page from scripts/report.py watch=true
const seconds = Number(document.documentElement.dataset.watch);
if (seconds) {
  const tagOf = async (options) => (await fetch(location.pathname, options)).headers.get("ETag");
  let shown = null;
  const ask = async () => {
    try {
      shown ??= await tagOf({ cache: "force-cache" });  // the browser's own copy of the page that is shown
      if (await tagOf({ method: "HEAD", cache: "no-store" }) !== shown) location.reload();
      document.documentElement.classList.remove("stale");
    } catch { document.documentElement.classList.add("stale"); }
    setTimeout(ask, 1000 * seconds);
  };
  ask();
}
})();
"""
