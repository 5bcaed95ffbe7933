// The route as a picture: a comb with a cell for each block, coloured by the server that computes it, and the way of a
// token through it; below, where each hop's time goes.

import { counted, h, s } from "./dom.js";

const NUM_COLOURS = 8;
const WIDTH = 300;
const PARTS = [
  ["network", "network_ms"],
  ["queue", "queue_ms"],
  ["compute", "compute_ms"],
];

const colours = new Map();

/** Return the colour of a server: the same one for as long as the page lives. */
export function colourOf(peer) {
  if (!colours.has(peer)) colours.set(peer, (colours.size % NUM_COLOURS) + 1);
  return colours.get(peer);
}

/** Return what to call a server: the name it gave itself, else the end of its peer id. */
export function nameOf(hop) {
  return hop.name ? String(hop.name).slice(0, 40) : `…${String(hop.peer).slice(-6)}`;
}

const blocksOf = (hop) => (hop.end - hop.start === 1 ? `block ${hop.start}` : `blocks ${hop.start}–${hop.end - 1}`);
const ms = (value) => `${value >= 100 ? value.toFixed(0) : value.toFixed(1)} ms`;
const timeOf = (hop) => PARTS.reduce((sum, [, key]) => sum + (hop[key] ?? 0), 0);

/** Return a bar with a piece for each hop, as wide as its blocks are many. */
export function strip(hops) {
  const pieces = hops.map((hop) => {
    const piece = h("span", { class: `hop-${colourOf(hop.peer)}` });
    piece.style.flexGrow = hop.end - hop.start;
    return piece;
  });
  return h("span", { class: "strip", "aria-hidden": "true" }, pieces);
}

/** Return a line about a route. */
export function summary(route) {
  const parts = [counted(route.hops.length, "hop")];
  if (route.tokens_per_s) parts.push(`${route.tokens_per_s.toFixed(1)} tokens/s`);
  if (route.failovers) parts.push(counted(route.failovers, "fail-over"));
  return parts.join(" · ");
}

/** Say what changed between two looks at a route, empty if no hop was replaced. */
export function newsOf(before, after) {
  if (!before || after.failovers <= before.failovers) return "";
  const known = new Set(before.hops.map((hop) => `${hop.peer} ${hop.start} ${hop.end}`));
  const fresh = after.hops.filter((hop) => !known.has(`${hop.peer} ${hop.start} ${hop.end}`));
  if (!fresh.length) return "A server was lost and came back; the answer goes on.";
  const who = fresh.map((hop) => `${nameOf(hop)} took over ${blocksOf(hop)}`).join(", ");
  return `A server was lost: ${who}. The answer goes on.`;
}

/**
 * Draw a route.
 *
 * @param element Where.
 * @param numBlocks Of the model; 0 if that is not known.
 * @param route As the gateway tells it; null if nothing has been asked yet.
 * @param isLive Whether an answer goes along it just now.
 * @param news Fail-overs in words, oldest first.
 */
export function showRoute(element, { numBlocks, route, isLive, news }) {
  const hops = route?.hops ?? [];
  const total = Math.max(numBlocks, hops.at(-1)?.end ?? 0);
  const parts = [];
  if (total) parts.push(comb(total, hops, isLive));
  if (!hops.length) {
    parts.push(h("p", { class: "hint" }, "Each cell is a block of the model. Ask something, and you see which server computes which."));
  } else {
    parts.push(figures(route), h("ol", { class: "hops" }, hopRows(route)), legend());
    if (route.advice) parts.push(h("p", { class: "advice" }, String(route.advice).replaceAll("->", "\u2192")));
  }
  if (news.length) {
    const rows = news.slice(-6).map((each) => h("li", {}, h("time", {}, each.time), " ", each.text));
    parts.push(h("h3", {}, "Fail-overs"), h("ul", { class: "news" }, rows));
  }
  element.replaceChildren(...parts);
}

function comb(total, hops, isLive) {
  const columns = [6, 8, 10, 12, 16, 20].find((each) => total <= each * each * 0.75) ?? 24;
  const radius = WIDTH / ((columns + 0.5) * Math.sqrt(3));
  const step = radius * Math.sqrt(3);
  const height = (Math.ceil(total / columns) - 1) * radius * 1.5 + radius * 2;
  const owner = new Map(hops.flatMap((hop) => range(hop.start, hop.end).map((block) => [block, hop])));
  const centers = range(0, total).map((block) => {
    const row = Math.floor(block / columns);
    const column = row % 2 ? columns - 1 - (block % columns) : block % columns; // every other row runs back
    return [step * (column + 0.5 + (row % 2) / 2), radius * (1 + row * 1.5)];
  });
  const cells = centers.map(([x, y], block) => {
    const hop = owner.get(block);
    const cell = s("polygon", { points: hexagon(x, y, radius * 0.92), class: hop ? `cell hop-${colourOf(hop.peer)}` : "cell" });
    cell.append(s("title", {}, hop ? `block ${block}: ${nameOf(hop)}` : `block ${block}`));
    return cell;
  });
  const way = hops.length ? [s("polyline", { class: isLive ? "way live" : "way", points: centers.map((each) => each.join()).join(" ") })] : [];
  const marks = hops.map((hop) => {
    const [x, y] = centers[hop.start];
    return s("text", { x, y: y + radius * 0.28, class: "mark", "font-size": radius * 0.8 }, String(hop.start));
  });
  const spots = hops.map((hop) => s("circle", { cx: centers[hop.start][0], cy: centers[hop.start][1], r: radius * 0.72, class: `spot hop-${colourOf(hop.peer)}` }));
  const label = hops.length ? hops.map((hop) => `${blocksOf(hop)} at ${nameOf(hop)}`).join(", ") : `${counted(total, "block")}, no route yet`;
  return s("svg", { class: "comb", viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label": label }, cells, way, spots, marks);
}

function hexagon(x, y, radius) {
  return range(0, 6)
    .map((corner) => {
      const angle = (Math.PI / 3) * corner + Math.PI / 6;
      return `${(x + radius * Math.cos(angle)).toFixed(2)},${(y + radius * Math.sin(angle)).toFixed(2)}`;
    })
    .join(" ");
}

function figures(route) {
  const figure = (value, unit, what) => h("div", {}, h("strong", {}, value, h("small", {}, unit)), h("span", {}, what));
  return h(
    "div",
    { class: "figures" },
    figure(route.tokens_per_s ? route.tokens_per_s.toFixed(1) : "–", "", "tokens/s"),
    figure(route.step_ms ? route.step_ms.toFixed(1) : "–", route.step_ms ? " ms" : "", "for a token"),
    figure(String(route.failovers ?? 0), "", "fail-overs"),
  );
}

function hopRows(route) {
  const longest = Math.max(0.001, route.back_ms ?? 0, ...route.hops.map(timeOf));
  const rows = route.hops.map((hop) =>
    h(
      "li",
      { class: `hop hop-${colourOf(hop.peer)}`, title: String(hop.peer) },
      h("span", { class: "hop-name" }, nameOf(hop)),
      h("span", { class: "hop-blocks" }, blocksOf(hop)),
      h("span", { class: "hop-time" }, timeOf(hop) ? ms(timeOf(hop)) : ""),
      bar(PARTS.map(([part, key]) => [part, hop[key] ?? 0]), longest),
    ),
  );
  const back = route.back_ms
    ? h("li", { class: "hop back" }, h("span", { class: "hop-name" }, "back to the gateway"), h("span", { class: "hop-blocks" }), h("span", { class: "hop-time" }, ms(route.back_ms)), bar([["network", route.back_ms]], longest))
    : null;
  return [...rows, back];
}

function bar(parts, longest) {
  const pieces = parts.map(([part, value]) => {
    const piece = h("span", { class: part, title: `${part} ${ms(value)}` });
    piece.style.width = `${(100 * value) / longest}%`;
    return piece;
  });
  const text = parts.map(([part, value]) => `${part} ${ms(value)}`).join(", ");
  return h("span", { class: "bar", role: "img", "aria-label": text }, pieces);
}

function legend() {
  return h("p", { class: "legend" }, PARTS.map(([part]) => h("span", {}, h("i", { class: part }), part)));
}

const range = (begin, end) => Array.from({ length: Math.max(0, end - begin) }, (_, index) => begin + index);
