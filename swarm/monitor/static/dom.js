// Making and changing elements. Text always goes through textContent: names and addresses come from strangers.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === undefined || value === null) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function draw(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

// What was written last is kept at the node: writing it again would end selections and cost a layout, and asking the
// document for it is slow.
export function say(node, text) {
  if (node.said === text) return;
  node.said = text;
  node.textContent = text;
}

export function set(node, name, value) {
  const known = (node.known ??= {});
  if (known[name] === value) return;
  known[name] = value;
  if (value === null || value === false) node.removeAttribute(name);
  else node.setAttribute(name, value);
}

// All inline style of a node at once.
export function dress(node, css) {
  if (node.worn === css) return;
  node.worn = css;
  node.style.cssText = css;
}

// Puts `nodes` into `parent` in this order, moving as few as it can, and keeps the focus.
export function arrange(parent, nodes) {
  const wanted = new Set(nodes);
  for (const child of [...parent.children]) if (!wanted.has(child)) child.remove();
  const focused = document.activeElement;
  let place = parent.firstElementChild;
  for (const node of nodes) {
    if (node === place) place = place.nextElementSibling;
    else parent.insertBefore(node, place);
  }
  if (focused && focused !== document.activeElement && parent.contains(focused)) focused.focus({ preventScroll: true });
}
