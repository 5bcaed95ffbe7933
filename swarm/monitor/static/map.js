// The map of a model: blocks from left to right; above, how much each of them can take; below, who serves it.

import { arrange, dress, make, say, set } from "./dom.js";
import { keyOf } from "./feed.js";
import { blocks, many, nameOf, rate } from "./words.js";

const HEIGHTS = [[8, 28], [14, 22], [40, 12], [90, 7], [Infinity, 4]]; // lanes up to which a lane has so many pixels
const NAMED = 20; // pixels from which a name fits into a bar
const MAX_BARS = 2000;

export class BlockMap {
  constructor() {
    this.bars = new Map();
    this.skyline = make("div", { class: "skyline", "aria-hidden": "true" });
    this.axis = make("div", { class: "axis", "aria-hidden": "true" });
    this.lanes = make("div", { class: "lanes", role: "group" });
    this.bands = make("div", { class: "bands", "aria-hidden": "true" });
    this.signs = make("div", { class: "signs", "aria-hidden": "true" });
    this.plot = make("div", { class: "plot" }, this.bands, this.signs, this.skyline, this.axis, make("div", { class: "deep" }, this.lanes));
    this.scale = make("span");
    this.legend = make(
      "p",
      { class: "legend" },
      ...["serving", "joining", "leaving", "unreachable", "other checkpoint"].map((standing) =>
        make("span", { "data-standing": standing }, make("i"), standing),
      ),
      make("span", { class: "scale" }, this.scale, make("i", { class: "alone" }), "one server only"),
    );
    this.node = make("div", { class: "map" }, this.plot, this.legend);
    this.lanes.addEventListener("keydown", (event) => this.walk(event));
    this.observer = new ResizeObserver(() => this.model && this.showBands(this.model));
    this.observer.observe(this.plot);
  }

  show(model, servers) {
    this.model = model;
    this.showSkyline(model);
    this.showAxis(model.num_blocks);
    this.showBands(model);
    this.showBars(model, servers);
  }

  showSkyline(model) {
    const most = Math.max(...model.coverage.map((each) => each.per_s), 1e-9);
    say(this.scale, `columns up to ${rate(most)} tok/s`);
    model.coverage.forEach((each, index) => {
      const column = this.skyline.children[index] ?? this.skyline.appendChild(make("i"));
      const height = each.servers ? Math.max(4, (100 * each.per_s) / most).toFixed(1) : 0;
      dress(column, `${place(each, model.num_blocks)};height:${height}%`);
      set(column, "data-servers", Math.min(each.servers, 3));
      set(column, "title", `${wordsFor(each)}: ${many(each.servers, "server")}, ${rate(each.per_s)} tokens/s`);
    });
    while (this.skyline.children.length > model.coverage.length) this.skyline.lastElementChild.remove();
  }

  showAxis(number) {
    if (this.axisShown === number) return;
    this.axisShown = number;
    const step = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000].find((each) => number / each <= 12) ?? 2000;
    const ticks = [];
    for (let block = 0; block < number; block += step) {
      const tick = make("span", {}, String(block));
      dress(tick, `left:${((100 * (block + 0.5)) / number).toFixed(3)}%`);
      ticks.push(tick);
    }
    this.axis.replaceChildren(...ticks);
  }

  showBands(model) {
    const wanted = [
      ...model.missing.map(([start, end]) => ({ kind: "gap", start, end, text: `no server: ${blocks(start, end)}` })),
      ...model.bottleneck.map(([start, end]) => ({ kind: "neck", start, end, text: `bottleneck: ${blocks(start, end)}` })),
    ].slice(0, 400);
    const width = this.plot.clientWidth;
    const key = JSON.stringify([wanted, width]);
    if (key === this.bandsShown) return;
    this.bandsShown = key;
    this.bands.replaceChildren(
      ...wanted.map((band) => {
        const node = make("div", { class: band.kind, "data-start": band.start, "data-end": band.end });
        dress(node, place(band, model.num_blocks));
        return node;
      }),
    );
    this.signs.replaceChildren(...signsOf(wanted, model.num_blocks, width));
  }

  showBars(model, servers) {
    const shown = servers.slice(0, MAX_BARS).sort((a, b) => a.start - b.start || b.end - a.end || (a.peer < b.peer ? -1 : 1));
    const { lanes, number } = pack(shown);
    const height = HEIGHTS.find(([most]) => number <= most)[1];
    dress(this.lanes, `--lane:${height}px;--lanes:${Math.max(number, 1)}`);
    set(this.lanes, "data-named", height >= NAMED);
    set(this.lanes, "aria-label", `${many(servers.length, "server")} of ${model.name}; arrow keys go from one to the next`);
    const fastest = Math.max(...shown.map((server) => server.per_s), 1e-9);
    const kept = new Map();
    const order = shown.map((server, index) => {
      const key = keyOf(server.model, server.peer);
      const bar = this.bars.get(key) ?? make("a", { class: "server", tabindex: "-1" });
      kept.set(key, bar);
      this.tell(bar, server, model.num_blocks, lanes[index], fastest);
      this.name(bar, server, height >= NAMED);
      return bar;
    });
    this.bars = kept;
    arrange(this.lanes, order);
    // One stop for the tab key, the arrow keys do the rest.
    if (order.length && !order.some((bar) => bar.tabIndex === 0)) order[0].tabIndex = 0;
  }

  tell(bar, server, number, lane, fastest) {
    dress(bar, `${place(server, number)};--row:${lane};--strength:${(server.per_s / fastest).toFixed(2)}`);
    set(bar, "href", `#/server/${encodeURIComponent(server.peer)}`);
    set(bar, "data-standing", server.standing);
    set(bar, "data-peer", server.peer);
    const where = `blocks ${blocks(server.start, server.end)}`;
    const words = `${nameOf(server)}: ${where}, ${server.standing}, ${rate(server.per_s)} tokens/s`;
    set(bar, "title", words);
  }

  name(bar, server, hasRoom) {
    if (!hasRoom) {
      if (bar.firstChild) bar.replaceChildren();
      return;
    }
    if (!bar.firstChild) bar.append(make("bdi"), make("small"));
    say(bar.firstElementChild, nameOf(server));
    say(bar.lastElementChild, server.standing === "serving" ? `${rate(server.per_s)} tok/s` : server.standing);
  }

  walk(event) {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const bars = [...this.lanes.children];
    const here = bars.indexOf(document.activeElement);
    const next = event.key === "Home" ? 0 : event.key === "End" ? bars.length - 1 : here + step;
    if (here < 0 || !bars[next]) return;
    event.preventDefault();
    bars[here].tabIndex = -1;
    bars[next].tabIndex = 0;
    bars[next].focus();
  }
}

// The first lane that is free is taken; `servers` come in the order of their first blocks.
export function pack(servers) {
  const ends = [];
  const lanes = servers.map((server) => {
    let lane = ends.findIndex((end) => end <= server.start);
    if (lane < 0) lane = ends.length;
    ends[lane] = server.end;
    return lane;
  });
  return { lanes, number: ends.length };
}

// A word over each band, as long as words do not meet; gaps come first, and the alerts tell all of them.
function signsOf(bands, number, width) {
  const taken = [];
  const signs = [];
  for (const band of bands) {
    const wide = 6.8 * band.text.length + 18;
    const middle = (width * (band.start + band.end)) / 2 / number;
    const left = Math.max(0, Math.min(middle - wide / 2, width - wide));
    if (taken.some(([from, to]) => left < to && from < left + wide)) continue;
    taken.push([left, left + wide]);
    const sign = make("b", { class: band.kind }, band.text);
    dress(sign, `left:${left.toFixed(0)}px`);
    signs.push(sign);
  }
  return signs;
}

function place(span, number) {
  const wide = (100 * (Math.min(span.end, number) - span.start)) / number;
  return `left:${((100 * span.start) / number).toFixed(3)}%;width:${wide.toFixed(3)}%`;
}

function wordsFor(span) {
  return span.end - span.start === 1 ? `block ${span.start}` : `blocks ${blocks(span.start, span.end)}`;
}
