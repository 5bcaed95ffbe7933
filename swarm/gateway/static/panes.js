// What stands beside the conversation, and over it where the window is narrow; and the colours of the page.

import { byId } from "./dom.js";

const narrow = matchMedia("(max-width: 860px)");
const medium = matchMedia("(max-width: 1180px)");
const page = document.documentElement;
const PANES = ["side", "panel"];
const THEMES = ["auto", "light", "dark"];

/** Whether a pane can be seen. */
export function isOpen(name) {
  return page.dataset[name] === "open";
}

/** Open a pane, and close those that would lie over it. */
export function show(name) {
  PANES.filter((other) => other !== name && covers(other)).forEach(close);
  page.dataset[name] = "open";
  settle();
  if (covers(name)) byId(`${name}-close`).focus();
}

/** Close a pane. */
export function close(name) {
  const hadFocus = byId(name).contains(document.activeElement);
  page.dataset[name] = "closed";
  settle();
  if (hadFocus) byId(`${name}-open`).focus();
}

function settle() {
  for (const name of PANES) {
    byId(name).inert = !isOpen(name);
    byId(`${name}-open`).setAttribute("aria-expanded", String(isOpen(name)));
  }
}

/** Open a pane that is closed, close one that is open. */
export const toggle = (name) => (isOpen(name) ? close(name) : show(name));

/** Whether a pane lies over the conversation, so that it has to be closed to go on. */
const covers = (name) => narrow.matches || (medium.matches && name === "panel");

/** Close what lies over the conversation. */
export function uncover() {
  PANES.filter((name) => isOpen(name) && covers(name)).forEach(close);
}

function setTheme(theme) {
  if (theme === "auto") delete page.dataset.theme;
  else page.dataset.theme = theme;
  byId("theme-name").textContent = { auto: "As the system", light: "Light", dark: "Dark" }[theme];
  try {
    localStorage.setItem("swarm.theme", theme);
  } catch {
    // it lives as long as the page
  }
}

/** Open what there is room for, and have buttons open and close the rest. */
export function wirePanes() {
  setTheme(page.dataset.theme ?? "auto");
  for (const name of PANES) {
    page.dataset[name] = covers(name) ? "closed" : "open";
    byId(`${name}-open`).addEventListener("click", () => toggle(name));
    byId(`${name}-close`).addEventListener("click", () => close(name));
  }
  settle();
  byId("veil").addEventListener("click", uncover);
  byId("theme").addEventListener("click", () => setTheme(THEMES[(THEMES.indexOf(page.dataset.theme ?? "auto") + 1) % THEMES.length]));
}
