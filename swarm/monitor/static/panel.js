// One server: what its record says, and what its engine tells while somebody looks.

import { dress, make, say, set } from "./dom.js";
import { age, blocks, count, device, endpoint, many, milliseconds, nameOf, rate, shortPeer } from "./words.js";

const ASK_EVERY = 3000;
const LOOK_EVERY = 300; // while the server is not in what we know

export class Panel {
  constructor(node, feed) {
    this.node = node;
    this.feed = feed;
    this.peer = "";
    addEventListener("hashchange", () => this.route());
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.peer) this.close();
    });
    this.route();
  }

  route() {
    const match = location.hash.match(/^#\/server\/(.+)$/);
    let peer = "";
    try {
      peer = match ? decodeURIComponent(match[1]) : "";
    } catch {
      // a link that somebody broke
    }
    if (peer === this.peer) return;
    clearTimeout(this.timer);
    if (!this.peer) this.cameFrom = document.activeElement;
    this.peer = peer;
    this.answer = null;
    this.node.hidden = !peer;
    for (const marked of document.querySelectorAll("[data-chosen]")) set(marked, "data-chosen", null);
    if (!peer) {
      if (this.cameFrom?.isConnected) this.cameFrom.focus({ preventScroll: true });
      return;
    }
    this.build();
    this.refresh();
    this.ask();
    this.shut.focus({ preventScroll: true });
  }

  close() {
    // Without a jump to the top, which an empty hash would be.
    history.pushState(null, "", location.pathname + location.search);
    this.route();
  }

  build() {
    this.shut = make("button", { type: "button", class: "quiet shut", "aria-label": "Close", onclick: () => this.close() }, "✕");
    this.title = make("h2", { id: "panel-title", dir: "auto" });
    this.id = make("p", { class: "id" }, this.peer);
    this.records = make("div");
    this.engine = make("div", { class: "engine" });
    this.node.replaceChildren(this.shut, this.title, this.id, this.records, this.engine);
  }

  refresh() {
    if (!this.peer) return;
    const servers = [...this.feed().servers.values()].filter((server) => server.peer === this.peer);
    for (const node of document.querySelectorAll(`[data-peer="${CSS.escape(this.peer)}"]`)) set(node, "data-chosen", true);
    say(this.title, servers.length ? nameOf(servers[0]) : shortPeer(this.peer));
    const told = new Map((this.answer?.servers ?? []).map((server) => [server.model, server]));
    this.showOnce(
      "records",
      servers.length ? servers.map((server) => this.recordOf({ ...told.get(server.model), ...server }, told.get(server.model))) : [make("p", { class: "problem" }, "This server is not in the swarm now.")],
    );
    this.showEngine(servers.length > 0);
  }

  async ask() {
    const peer = this.peer;
    clearTimeout(this.timer);
    const isThere = [...this.feed().servers.values()].some((server) => server.peer === peer);
    if (isThere && !document.hidden) {
      try {
        const answer = await fetch(`/api/v1/peers/${encodeURIComponent(peer)}`);
        const found = await answer.json();
        if (this.peer !== peer) return;
        this.answer = answer.ok ? found : null;
        this.refresh();
      } catch {
        // the line is down, which the page says elsewhere
      }
    }
    if (this.peer === peer) this.timer = setTimeout(() => this.ask(), isThere ? ASK_EVERY : LOOK_EVERY);
  }

  recordOf(server, told) {
    const model = this.feed().models.get(server.model);
    const strip = make("div", { class: "strip", "aria-hidden": "true" }, make("i", { "data-standing": server.standing }));
    const number = model?.num_blocks ?? server.end;
    dress(strip.firstElementChild, `left:${(100 * server.start) / number}%;width:${(100 * (server.end - server.start)) / number}%`);
    const next = server.next ? `, then ${blocks(...server.next)}` : "";
    return make(
      "section",
      {},
      make("h3", {}, server.model),
      strip,
      facts([
        ["blocks", `${blocks(server.start, server.end)} of ${number}${next}`],
        ["state", ["unreachable", "other checkpoint"].includes(server.standing) ? `${server.standing}, says it is ${server.state}` : server.standing],
        ["decoding", `${rate(server.per_s)} tokens/s through its blocks`],
        ["prefill", `${rate(server.prefill_per_s / (server.end - server.start))} tokens/s through its blocks`],
        ["load", many(server.load, "step")],
        ["free pages", `${count(server.free_pages)}, of 16 tokens each`],
        ["weights", `${server.quant}, ${server.dtype}`],
        ["device", device(server.kernel)],
        ["reached", server.reach],
        ["addresses", (told?.addrs ?? server.addrs).map(endpoint).join("\n") || "none"],
        ["since", server.since > 0 ? `${new Date(1e3 * server.since).toLocaleString("en-GB")} (${age(Date.now() / 1e3 - server.since)})` : "not told"],
        ["version", server.version],
        ["checkpoint", told?.fingerprint?.slice(0, 16)],
        ["knows the way to", (told?.round_trips ?? []).map((each) => `${this.nameFor(each.peer)} ${milliseconds(each.seconds)}`).join(", ")],
      ]),
    );
  }

  nameFor(peer) {
    for (const server of this.feed().servers.values()) if (server.peer === peer) return nameOf(server);
    return shortPeer(peer);
  }

  showEngine(isThere) {
    const { engine, problem, round_trip: roundTrip } = this.answer ?? {};
    let content;
    if (!isThere) content = [];
    else if (!this.answer) content = [make("h3", {}, "Engine"), make("p", { class: "soft" }, "Asking the server…")];
    else if (!engine) content = [make("h3", {}, "Engine"), make("p", { class: "soft" }, `No answer: ${problem}`)];
    else {
      const used = engine.pages ? engine.pages_used / engine.pages : 0;
      const meter = make("div", { class: "meter", role: "img", "aria-label": `${Math.round(100 * used)} % of the pages are used` }, make("i"), make("i"));
      dress(meter.children[0], `width:${100 * used}%`);
      dress(meter.children[1], `width:${engine.pages ? (100 * engine.pages_cached) / engine.pages : 0}%`);
      content = [
        make("h3", {}, "Engine, as it says now"),
        meter,
        facts([
          ["pages", `${count(engine.pages_used)} used, ${count(engine.pages_cached)} kept, of ${count(engine.pages)}`],
          ["sessions", `${count(engine.sessions)} with ${many(engine.sequences, "sequence")}`],
          ["steps", `${count(engine.running)} running, ${count(engine.waiting)} waiting`],
          ["decoding", `${rate(engine.decode_per_s)} tokens/s now`],
          ["prefill", `${rate(engine.prefill_per_s)} tokens/s now`],
          ["queue", `${milliseconds(engine.queue_p50)} median, ${milliseconds(engine.queue_p99)} p99`],
          ["batch", `${rate(engine.batch_rows)} rows, ${engine.batch_rows_max} at most`],
          ["turned away", `${many(engine.num_busy, "step")} since its start`],
          ["round trip", milliseconds(roundTrip)],
        ]),
      ];
    }
    this.showOnce("engine", content);
  }

  // Rebuilt only when it reads differently, so that marked text stays marked.
  showOnce(name, content) {
    const holder = make("div", {}, ...content);
    if (holder.outerHTML === this[`${name}Shown`] && this[name].childElementCount) return;
    this[`${name}Shown`] = holder.outerHTML;
    this[name].replaceChildren(...content);
  }
}

function facts(entries) {
  const told = entries.filter(([, text]) => text);
  return make("dl", { class: "facts-list" }, ...told.flatMap(([name, text]) => [make("dt", {}, name), make("dd", { dir: "auto" }, text)]));
}
