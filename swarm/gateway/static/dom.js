// Making elements. Text only ever becomes text nodes: what a model or a server says is never read as markup.

const SVG = "http://www.w3.org/2000/svg";

/** Make an element; on... are listeners, data a dataset, other properties attributes (true is empty, false and null none). */
export function h(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

/** Make an element of SVG, as `h`. */
export function s(tag, properties = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "data") Object.assign(element.dataset, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const PATHS = {
  plus: "M12 5v14M5 12h14",
  close: "M6 6l12 12M18 6L6 18",
  list: "M4 6h16M4 12h16M4 18h10",
  settings: "M4 7h9M17 7h3M4 17h3M11 17h9M15 4.5v5M9 14.5v5",
  comb: "M12 2.8l4 2.3v4.6l-4 2.3-4-2.3V5.1zM7.5 12l4 2.3v4.6l-4 2.3-4-2.3v-4.6zM16.5 12l4 2.3v4.6l-4 2.3-4-2.3v-4.6z",
  send: "M12 19V5M6 11l6-6 6 6",
  stop: "M7 7h10v10H7z",
  down: "M12 5v14M6 13l6 6 6-6",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  check: "M5 12.5l5 5 9-11",
  again: "M20 12a8 8 0 1 1-2.5-5.8M20 3v5h-5",
  edit: "M4 20l1-4L16 5l3 3L8 19z",
  bin: "M5 7h14M9 7V4h6v3M7 7l1 13h8l1-13",
  theme: "M12 4a8 8 0 1 0 0 16zM12 4a8 8 0 0 1 0 16",
  keys: "M3 7h18v10H3zM7 14h10M7 10.5h.01M12 10.5h.01M17 10.5h.01",
  alert: "M12 4l9 16H3zM12 10v4M12 17h.01",
};

/** Make an icon; it says nothing to a screen reader. */
export function icon(name) {
  return s("svg", { viewBox: "0 0 24 24", class: "icon", "aria-hidden": "true" }, s("path", { d: PATHS[name] }));
}

/** Put the icons where the page asks for them. */
export function placeIcons(root) {
  for (const element of root.querySelectorAll("[data-icon]")) element.prepend(icon(element.dataset.icon));
}

export const byId = (id) => document.getElementById(id);

/** "1 server", "2 servers". */
export const counted = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;
