// How a model fared: throughput as a line over a ribbon that shows which share of its blocks was served.

import { draw, make, say, set } from "./dom.js";
import { clock, many, rate } from "./words.js";

const RANGES = [["1 h", 3600, 10], ["24 h", 86400, 60], ["7 d", 604800, 300], ["30 d", 2592000, 600]];
const HEIGHT = 164;
const PAD = { left: 40, right: 6, top: 10, ribbon: 8, foot: 18 };
const POINTS = 180;

export class Graph {
  constructor() {
    this.range = RANGES[0];
    this.rows = [];
    this.step = 10;
    this.until = 0;
    this.name = "";
    this.svg = draw("svg", { class: "chart", height: HEIGHT, role: "img", tabindex: "0" });
    this.reading = make("p", { class: "reading" });
    this.buttons = RANGES.map((range) =>
      make("button", { type: "button", class: "quiet", "aria-pressed": String(range === this.range), onclick: () => this.choose(range) }, range[0]),
    );
    this.node = make(
      "figure",
      { class: "graph" },
      make("figcaption", {}, make("span", {}, "Throughput and coverage"), make("span", { class: "ranges", role: "group", "aria-label": "Range" }, ...this.buttons)),
      this.svg,
      this.reading,
    );
    this.svg.addEventListener("pointermove", (event) => this.point(event));
    this.svg.addEventListener("pointerleave", () => this.read(null));
    this.svg.addEventListener("blur", () => this.read(null));
    this.svg.addEventListener("keydown", (event) => this.walk(event));
    this.observer = new ResizeObserver(() => this.redraw());
    this.observer.observe(this.svg);
  }

  follow(model) {
    if (this.name === model.name) return;
    this.name = model.name;
    this.load();
  }

  stop() {
    clearTimeout(this.timer);
    this.observer.disconnect();
    this.name = "";
  }

  choose(range) {
    this.range = range;
    this.buttons.forEach((button, index) => set(button, "aria-pressed", RANGES[index] === range));
    this.load();
  }

  async load() {
    clearTimeout(this.timer);
    const [, seconds, pause] = this.range;
    const query = new URLSearchParams({ model: this.name, seconds, points: POINTS });
    try {
      const answer = await fetch(`/api/v1/history?${query}`);
      const found = await answer.json();
      if (answer.ok && this.range[1] === seconds && found.model === this.name) {
        this.rows = found.rows;
        this.step = found.step;
        this.problem = found.problem;
        this.until = Date.now() / 1e3;
        this.redraw();
      }
    } catch {
      // the line is down, which the page says elsewhere
    }
    if (this.name) this.timer = setTimeout(() => this.load(), 1e3 * (this.rows.length < 12 ? 5 : pause));
  }

  redraw() {
    const width = Math.floor(this.svg.clientWidth);
    if (!width) return;
    set(this.svg, "viewBox", `0 0 ${width} ${HEIGHT}`);
    const [, seconds] = this.range;
    const since = this.until - seconds;
    const floor = HEIGHT - PAD.foot - PAD.ribbon - 6;
    const most = nice(Math.max(...this.rows.map((row) => row[4]), 1e-9));
    this.x = (at) => PAD.left + ((width - PAD.left - PAD.right) * (Math.max(at, since) - since)) / seconds;
    const y = (value) => floor - ((floor - PAD.top) * Math.min(value, most)) / most;
    const parts = [];
    for (const value of [0, most / 2, most]) {
      parts.push(draw("line", { class: "grid", x1: PAD.left, x2: width - PAD.right, y1: y(value), y2: y(value) }));
      parts.push(draw("text", { class: "tick", x: PAD.left - 6, y: y(value) + 3.5, "text-anchor": "end" }, rate(value)));
    }
    for (let index = 0; index <= 3; index++) {
      const at = since + (seconds * index) / 3;
      const anchor = ["start", "middle", "middle", "end"][index];
      parts.push(draw("text", { class: "tick", x: this.x(at), y: HEIGHT - 4, "text-anchor": anchor }, clock(at, seconds)));
    }
    for (const run of runs(this.rows, this.step)) {
      const line = run.map((row) => `${this.x(row[0] + this.step / 2).toFixed(1)},${y(row[4]).toFixed(1)}`);
      const left = this.x(run[0][0] + this.step / 2).toFixed(1);
      const right = this.x(run.at(-1)[0] + this.step / 2).toFixed(1);
      parts.push(draw("path", { class: "area", d: `M${left},${floor} L${line.join(" ")} L${right},${floor}z` }));
      parts.push(draw("path", { class: "line", d: run.length > 1 ? `M${line.join(" ")}` : `M${line[0]} h1.5` }));
    }
    const top = HEIGHT - PAD.foot - PAD.ribbon;
    parts.push(draw("rect", { class: "unseen", x: PAD.left, y: top, width: width - PAD.left - PAD.right, height: PAD.ribbon, rx: 2 }));
    for (const [at, end, share] of ribbon(this.rows, this.step)) {
      const right = Math.min(this.x(end), width - PAD.right);
      const band = draw("rect", { class: share === 1 ? "whole" : "partial", x: this.x(at).toFixed(1), y: top, width: Math.max(0.5, right - this.x(at)).toFixed(1), height: PAD.ribbon });
      if (share < 1) band.setAttribute("opacity", (1 - 0.6 * share).toFixed(2));
      parts.push(band);
    }
    this.cursor = draw("line", { class: "cursor", y1: PAD.top, y2: HEIGHT - PAD.foot, visibility: "hidden" });
    this.svg.replaceChildren(...parts, this.cursor);
    this.read(this.at ?? null);
  }

  point(event) {
    const x = event.clientX - this.svg.getBoundingClientRect().left;
    let best = null;
    this.rows.forEach((row, index) => {
      const distance = Math.abs(this.x(row[0] + this.step / 2) - x);
      if (best === null || distance < best[0]) best = [distance, index];
    });
    this.read(best && best[1]);
  }

  walk(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || !this.rows.length) return;
    event.preventDefault();
    this.read(Math.min(this.rows.length - 1, Math.max(0, (this.at ?? this.rows.length) + step)));
  }

  // Tells one point, or the last one where nobody points.
  read(index) {
    this.at = index;
    const row = this.rows[index ?? this.rows.length - 1];
    if (!row || !this.cursor) {
      say(this.reading, this.problem ? `No history: ${this.problem}` : "The history begins now.");
      return;
    }
    const [at, servers, number, covered, perSecond] = row;
    const x = this.x(at + this.step / 2);
    set(this.cursor, "x1", x);
    set(this.cursor, "x2", x);
    set(this.cursor, "visibility", index === null ? "hidden" : "visible");
    const when = index === null ? "Now" : clock(at, 0) + (this.range[1] > 86400 ? `, ${clock(at, Infinity)}` : "");
    const text = `${when}: ${rate(perSecond)} tokens/s, ${covered} of ${number} blocks, ${many(Number(servers.toFixed(1)), "server")}`;
    say(this.reading, text);
    set(this.svg, "aria-label", `Throughput and coverage of the last ${this.range[0]}; arrow keys read it. ${text}`);
  }
}

// Where nobody watched there are no points, and the line is broken.
function runs(rows, step) {
  const found = [];
  for (const row of rows) {
    const last = found.at(-1)?.at(-1);
    if (last && row[0] - last[0] <= 2 * step) found.at(-1).push(row);
    else found.push([row]);
  }
  return found;
}

// Neighbours of which an equal share was served are one piece: [begin, end, share].
function ribbon(rows, step) {
  const pieces = [];
  for (const [at, , number, covered] of rows) {
    const last = pieces.at(-1);
    if (last && last[1] === at && last[2] === covered / number) last[1] = at + step;
    else pieces.push([at, at + step, covered / number]);
  }
  return pieces;
}

function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 2, 4, 5, 10].find((each) => each * power >= value);
}
