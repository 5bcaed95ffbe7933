// The settings of a conversation, and the dialog that changes them.

import { byId } from "./dom.js";

const NUMBERS = ["temperature", "top_p", "top_k", "repetition_penalty", "max_tokens", "seed"];

/** Return those that the API takes as parameters. */
export function optionsOf(settings) {
  return Object.fromEntries(NUMBERS.filter((name) => typeof settings[name] === "number").map((name) => [name, settings[name]]));
}

/** Show settings in the dialog. */
export function openSettings(settings) {
  const fields = byId("settings-form").elements;
  fields.system.value = settings.system ?? "";
  for (const name of NUMBERS) fields[name].value = settings[name] ?? "";
  byId("settings-dialog").showModal();
}

/** Return what stands in the dialog; a number out of its range counts as none. */
export function readSettings() {
  const fields = byId("settings-form").elements;
  const numbers = NUMBERS.filter((name) => fields[name].value !== "" && fields[name].checkValidity());
  return { system: fields.system.value, ...Object.fromEntries(numbers.map((name) => [name, fields[name].valueAsNumber])) };
}
