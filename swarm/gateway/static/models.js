// The models that the gateway serves, which one is chosen, and whether all of its blocks have a server.

import { listModels } from "./api.js";
import { byId, counted, h } from "./dom.js";

const EVERY = 15000; // milliseconds between looks

let models = [];

/** Return how many blocks a model has; 0 if that is not known. */
export function numBlocks(name) {
  return models.find((each) => each.id === name)?.swarm?.num_blocks ?? 0;
}

/** Return the name of the model that is chosen. */
export const chosenModel = () => byId("model").value;

/** Choose the first of these models that is served; return which one is chosen then. */
export function chooseModel(...names) {
  const wanted = names.find((name) => models.some((each) => each.id === name));
  if (wanted) byId("model").value = wanted;
  return chosenModel();
}

/** Look for models now and then; `changed` is called when there are others than before. */
export function watchModels(changed) {
  const look = async () => {
    try {
      models = await listModels();
    } catch (fault) {
      tellState("bad", fault.title);
      return;
    }
    const names = models.map((each) => each.id);
    const select = byId("model");
    if (names.join("\n") !== [...select.options].map((each) => each.value).join("\n")) {
      select.replaceChildren(...names.map((name) => h("option", { value: name }, name)));
      changed();
    }
    drawState();
  };
  look();
  setInterval(() => document.hidden || look(), EVERY);
}

/** Tell how the chosen model is. */
export function drawState() {
  const swarm = models.find((each) => each.id === chosenModel())?.swarm;
  if (!models.length) tellState("warn", "no model is served");
  else if (!swarm) tellState("ok", "");
  else if (swarm.state === "ready") tellState("ok", `${counted(swarm.num_blocks, "block")} at ${counted(swarm.servers, "server")}`);
  else tellState("warn", "some blocks have no server");
}

function tellState(state, text) {
  const element = byId("model-state");
  const key = `${state} ${text}`;
  if (element.dataset.key === key) return; // or a screen reader would say it again
  element.dataset.key = key;
  element.replaceChildren(h("i", { class: `dot ${state}` }), h("span", {}, text));
}
