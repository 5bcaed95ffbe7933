// The page: what the feed brings is shown by the model cards, the table and the panel.

import { arrange, make, say, set } from "./dom.js";
import { Feed } from "./feed.js";
import { ModelCard } from "./model.js";
import { Panel } from "./panel.js";
import { ServerTable } from "./table.js";
import { age, count } from "./words.js";

const byId = (id) => document.getElementById(id);

const cards = new Map();
const table = new ServerTable(byId("servers"));
let isOnline = false;
let hasRendered = false;

const feed = new Feed(render, (online) => {
  isOnline = online;
  tellLive();
});
const panel = new Panel(byId("panel"), () => feed);

function render() {
  const models = [...feed.models.values()];
  const servers = [...feed.servers.values()];
  tellHeadline(models);
  tellTotals(feed.frame.totals);
  const problem = byId("problem");
  problem.hidden = !feed.frame.problem;
  say(problem, feed.frame.at ? `What is shown may be old: ${feed.frame.problem}` : feed.frame.problem);
  const perModel = new Map(models.map((model) => [model.name, []]));
  for (const server of servers) perModel.get(server.model)?.push(server);
  for (const name of [...cards.keys()]) {
    if (!perModel.has(name)) {
      cards.get(name).leave();
      cards.delete(name);
    }
  }
  for (const model of models) {
    if (!cards.has(model.name)) cards.set(model.name, new ModelCard());
    cards.get(model.name).show(model, perModel.get(model.name));
  }
  // Cards keep their places: a page that shuffles itself cannot be read.
  arrange(byId("models"), [...cards.values()].map((card) => card.node));
  table.show(servers, models.length > 1);
  panel.refresh();
  tellLive();
  if (!hasRendered) {
    hasRendered = true;
    // Two frames on, what was built has been painted.
    requestAnimationFrame(() => requestAnimationFrame(() => performance.mark("rendered")));
  }
}

function tellHeadline(models) {
  const broken = models.filter((model) => !model.is_whole);
  const thin = models.filter((model) => model.is_whole && model.fewest === 1);
  let text = feed.frame.at ? "Nobody serves a model here yet" : "Looking at the swarm…";
  let level = "note";
  if (broken.length === 1) text = `${broken[0].name} cannot be used: ${lacking(broken[0])}`;
  else if (broken.length) text = `${broken.length} of ${models.length} models cannot be used`;
  else if (models.length) text = models.length === 1 ? `${models[0].name} is whole` : `All ${models.length} models are whole`;
  if (broken.length) level = "bad";
  else if (models.length) level = thin.length ? "warn" : "ok";
  if (!broken.length && thin.length) text += ", with blocks on one server only";
  say(byId("headline"), text);
  set(byId("headline"), "data-level", level);
  document.title = `${level === "bad" ? "⚠ " : ""}${text} · swarm monitor`;
}

function lacking(model) {
  const missing = model.num_blocks - model.num_covered;
  return missing === 1 ? "1 block has no server" : `${count(missing)} blocks have no server`;
}

function tellTotals(totals) {
  const entries = [
    ["servers", count(totals.servers ?? 0), `${count(totals.serving ?? 0)} serving`],
    ["models", count(totals.models ?? 0), `${count(totals.models_whole ?? 0)} whole`],
    ["steps in work", count(totals.load ?? 0), "on all servers"],
    ["free pages", count(totals.free_pages ?? 0), "for 16 tokens each"],
  ];
  const list = byId("totals");
  if (!list.children.length) {
    for (const [name] of entries) {
      list.append(make("div", {}, make("dt", {}, name), make("dd", {}, make("b"), make("span"))));
    }
  }
  entries.forEach(([, number, note], index) => {
    say(list.children[index].querySelector("b"), number);
    say(list.children[index].querySelector("span"), note);
  });
}

function tellLive() {
  const node = byId("live");
  const isFresh = isOnline && !feed.frame.problem;
  // While all is well our own clock alone counts: the monitor's may be another machine's.
  const heard = (performance.now() - feed.frame.heard) / 1e3;
  const since = !feed.frame.at ? NaN : feed.frame.problem ? Date.now() / 1e3 - feed.frame.at : heard;
  set(node, "data-state", isFresh ? "live" : isOnline ? "stale" : "lost");
  const seen = since >= 0 ? `seen ${since < 3 ? "just now" : `${age(since)} ago`}` : "";
  const says = isFresh ? "live" : isOnline ? "not up to date" : "connection to the monitor lost, trying again";
  say(node.querySelector(".says"), [says, seen].filter(Boolean).join(" · "));
}

setInterval(tellLive, 1000);
