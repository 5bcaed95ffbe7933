// One model: its facts, alerts, map and history.

import { draw, make, say, set } from "./dom.js";
import { Graph } from "./graph.js";
import { BlockMap } from "./map.js";
import { blocks, many, rate } from "./words.js";

const ICONS = {
  bad: "M8 1.5 15 14H1zM8 6v4M8 11.6v.4",
  warn: "M8 1.5a6.5 6.5 0 1 0 0 13 6.5 6.5 0 0 0 0-13zM8 4.6v4.2M8 11v.4",
  note: "M8 1.5a6.5 6.5 0 1 0 0 13 6.5 6.5 0 0 0 0-13zM8 7.2v4.2M8 4.6v.4",
};

export class ModelCard {
  constructor() {
    this.map = new BlockMap();
    this.graph = new Graph();
    this.title = make("h2");
    this.badge = make("span", { class: "badge" });
    this.facts = make("p", { class: "facts" });
    this.alerts = make("ul", { class: "alerts", "aria-label": "Alerts" });
    this.fine = make("p", { class: "fine" });
    this.node = make(
      "article",
      { class: "card" },
      make("header", {}, this.title, this.badge, this.facts),
      this.alerts,
      this.fine,
      this.map.node,
      this.graph.node,
    );
  }

  show(model, servers) {
    say(this.title, model.name);
    say(this.badge, model.is_whole ? "whole" : "incomplete");
    set(this.badge, "data-level", model.is_whole ? "ok" : "bad");
    set(this.node, "data-whole", model.is_whole);
    set(this.node, "data-model", model.name);
    say(this.facts, this.factsOf(model, servers));
    this.showAlerts(model.alerts);
    this.map.show(model, servers);
    this.graph.follow(model);
  }

  leave() {
    this.graph.stop();
    this.map.observer.disconnect();
    this.node.remove();
  }

  factsOf(model, servers) {
    const parts = [many(model.num_blocks, "block"), many(servers.length, "server")];
    if (model.is_whole) parts.push(`${rate(model.per_s)} tokens/s through all blocks`);
    else parts.push(`${model.num_covered} of ${model.num_blocks} blocks served`);
    if (model.bottleneck.length) {
      const least = Math.min(...model.coverage.filter((each) => each.servers).map((each) => each.per_s));
      const where = model.bottleneck.slice(0, 3).map(([start, end]) => blocks(start, end)).join(", ");
      parts.push(`bottleneck: ${where} with ${rate(least)} tokens/s`);
    }
    return parts.join("  ·  ");
  }

  showAlerts(alerts) {
    const text = JSON.stringify(alerts.map((alert) => [alert.level, alert.text]));
    if (text === this.alertsShown) return;
    this.alertsShown = text;
    this.alerts.replaceChildren(
      ...alerts.map((alert) =>
        make(
          "li",
          { "data-level": alert.level, "data-kind": alert.kind },
          draw("svg", { viewBox: "0 0 16 16", class: "icon", "aria-hidden": "true" }, draw("path", { d: ICONS[alert.level] ?? ICONS.note })),
          make("span", {}, alert.text),
        ),
      ),
    );
    say(this.fine, alerts.length ? "" : "Each block has at least two servers, and all of them are well.");
  }
}
