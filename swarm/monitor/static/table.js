// The table of servers: searched, filtered, sorted; rows are kept and changed in place.

import { arrange, make, say, set } from "./dom.js";
import { keyOf } from "./feed.js";
import { age, blocks, count, device, firstEndpoint, nameOf, rate, shortPeer, STANDINGS } from "./words.js";

const ORDER = Object.keys(STANDINGS);
const MANY = 60; // rows from which those out of sight are not laid out
const now = () => Date.now() / 1e3;
const uptime = (server) => (server.since > 0 && server.since < now() + 60 ? Math.max(0, now() - server.since) : NaN);

// [id, head, what a row is sorted by, first direction]; a cell shows one or two lines.
const COLUMNS = [
  ["name", "Server", (server) => nameOf(server).toLowerCase(), 1, (server) => [nameOf(server), shortPeer(server.peer)]],
  ["model", "Model", (server) => server.model, 1, (server) => [server.model]],
  ["blocks", "Blocks", (server) => 1e4 * server.start + server.end, 1, (server) => [blocks(server.start, server.end), server.next ? `→ ${blocks(...server.next)}` : ""]],
  ["standing", "State", (server) => ORDER.indexOf(server.standing), 1, (server) => [server.standing]],
  ["rate", "Tokens/s", (server) => server.per_s, -1, (server) => [rate(server.per_s)]],
  ["load", "Load", (server) => server.load, -1, (server) => [count(server.load)]],
  ["pages", "Free pages", (server) => server.free_pages, -1, (server) => [count(server.free_pages)]],
  ["device", "Device, weights", (server) => `${device(server.kernel)} ${server.quant} ${server.dtype}`, 1, (server) => [device(server.kernel), `${server.quant} · ${server.dtype}`]],
  ["reach", "Reached", (server) => `${server.reach} ${server.addrs[0] ?? ""}`, 1, (server) => [server.reach, firstEndpoint(server.addrs)]],
  ["up", "Serving for", uptime, -1, (server) => [age(uptime(server))]],
  ["version", "Version", (server) => server.version, 1, (server) => [server.version]],
];

export class ServerTable {
  constructor(section) {
    this.section = section;
    this.body = section.querySelector("tbody");
    this.rows = new Map();
    this.servers = [];
    this.sort = { id: "blocks", direction: 1 };
    this.only = "";
    this.makeHead(section.querySelector("thead"));
    this.search = section.querySelector("#search");
    this.search.addEventListener("input", () => this.refresh());
    this.filters = section.querySelector("#filters");
    this.shown = section.querySelector("#shown");
    this.body.addEventListener("click", (event) => {
      const row = event.target.closest("tr");
      // Whoever marks text to copy it does not want to go elsewhere.
      if (row && !event.target.closest("a") && !String(getSelection())) location.hash = row.querySelector("a").getAttribute("href");
    });
    document.addEventListener("keydown", (event) => this.shortcut(event));
  }

  makeHead(head) {
    this.heads = COLUMNS.map(([id, text, , direction]) => {
      const button = make("button", { type: "button", onclick: () => this.sortBy(id, direction) }, text);
      return make("th", { scope: "col", role: "columnheader", "data-column": id }, button);
    });
    head.append(make("tr", { role: "row" }, ...this.heads));
  }

  show(servers, hasModels) {
    this.servers = servers;
    set(this.section.querySelector("table"), "data-models", hasModels);
    set(this.section.querySelector("table"), "data-many", servers.length > MANY);
    const seen = new Map();
    for (const server of servers) {
      const key = keyOf(server.model, server.peer);
      const row = this.rows.get(key) ?? new Row();
      row.show(server);
      seen.set(key, row);
    }
    this.rows = seen;
    this.showFilters();
    this.refresh();
  }

  showFilters() {
    const counts = new Map();
    for (const server of this.servers) counts.set(server.standing, (counts.get(server.standing) ?? 0) + 1);
    if (this.only && !counts.has(this.only)) this.only = "";
    const wanted = counts.size > 1 ? ORDER.filter((standing) => counts.has(standing)) : [];
    const nodes = wanted.map((standing) => {
      const old = [...this.filters.children].find((each) => each.dataset.standing === standing);
      const node = old ?? make("button", { type: "button", class: "chip", "data-standing": standing, onclick: () => this.filter(standing) });
      say(node, `${standing} ${count(counts.get(standing))}`);
      set(node, "aria-pressed", this.only === standing);
      return node;
    });
    arrange(this.filters, nodes);
  }

  filter(standing) {
    this.only = this.only === standing ? "" : standing;
    this.showFilters();
    this.refresh();
  }

  sortBy(id, direction) {
    this.sort = { id, direction: this.sort.id === id ? -this.sort.direction : direction };
    this.refresh();
  }

  refresh() {
    const terms = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const { id, direction } = this.sort;
    const value = COLUMNS.find(([each]) => each === id)[2];
    const keyed = [...this.rows.values()]
      .filter((row) => (!this.only || row.server.standing === this.only) && terms.every((term) => row.text.includes(term)))
      .map((row) => [value(row.server), row]);
    keyed.sort(([a, one], [b, other]) => direction * compare(a, b) || compare(one.server.start, other.server.start) || compare(one.server.peer, other.server.peer));
    arrange(this.body, keyed.map(([, row]) => row.node));
    this.heads.forEach((head) => set(head, "aria-sort", head.dataset.column === id ? (direction > 0 ? "ascending" : "descending") : "none"));
    const total = this.rows.size;
    say(this.shown, keyed.length === total ? count(total) : `${count(keyed.length)} of ${count(total)}`);
    const nobody = this.section.querySelector("#nobody");
    nobody.hidden = keyed.length > 0;
    say(nobody, total ? "No server matches." : "No server is in the swarm.");
  }

  shortcut(event) {
    const isTyping = event.target.closest?.("input, textarea, select");
    if (event.key === "/" && !isTyping && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      this.search.focus();
    } else if (event.key === "Escape" && event.target === this.search && this.search.value) {
      this.search.value = "";
      this.refresh();
      event.stopImmediatePropagation();
    }
  }
}

class Row {
  constructor() {
    this.node = TEMPLATE.cloneNode(true);
    this.cells = [...this.node.children];
  }

  // What a search looks through; made when somebody searches.
  get text() {
    const { name, peer, model, standing, reach, quant, dtype, kernel, version, addrs } = this.server;
    this.words ||= [name, peer, model, standing, reach, quant, dtype, device(kernel), version, ...addrs].join(" ").toLowerCase();
    return this.words;
  }

  show(server) {
    if (server === this.server) {
      say(this.cells[9].firstElementChild, COLUMNS[9][4](server)[0]);
      return;
    }
    this.server = server;
    this.words = "";
    set(this.node, "data-standing", server.standing);
    set(this.node, "data-peer", server.peer);
    COLUMNS.forEach(([id, , , , lines], index) => {
      const [first, second] = lines(server);
      const [top, below] = this.cells[index].children;
      say(top, first);
      if (below) say(below, second);
      if (id === "name") {
        set(top, "href", `#/server/${encodeURIComponent(server.peer)}`);
        set(below, "title", server.peer);
      } else if (id === "reach") set(below, "title", server.addrs.join("\n"));
    });
  }
}

const TWO_LINES = new Set(["name", "blocks", "device", "reach"]);
const FOREIGN = new Set(["name", "model"]); // may be in any script; finding out its direction takes time
const TEMPLATE = make(
  "tr",
  { role: "row" },
  ...COLUMNS.map(([id, head]) =>
    make("td", { role: "cell", class: id, "data-head": head }, make(id === "name" ? "a" : "span", { dir: FOREIGN.has(id) && "auto" }), TWO_LINES.has(id) ? make("small") : null),
  ),
);

function compare(a, b) {
  if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(b) - Number.isNaN(a);
  return a < b ? -1 : a > b ? 1 : 0;
}
