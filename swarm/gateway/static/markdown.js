// The little Markdown that models write most: code, headings, lists, quotes, rules; bold, italic and code within a line.
// It becomes elements and text nodes, nothing else: no links, no images, no HTML.

import { h, icon } from "./dom.js";

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]{0,30}).*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const RULE = /^ {0,3}([-*_])(\s*\1){2,}\s*$/;
const QUOTE = /^ {0,3}> ?(.*)$/;
const MAX_DEPTH = 6;
const MAX_INLINE = 20000; // letters of a paragraph beyond which nobody looks for stars in it

/** Cut a text into blocks: {kind, source, ...}; equal sources of one kind make equal elements. */
export function blocksOf(text) {
  const lines = text.split("\n");
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    const begin = at;
    const block = readBlock(lines, at);
    at = block.end;
    if (block.kind !== "blank") blocks.push({ ...block, source: lines.slice(begin, at).join("\n") });
  }
  return blocks;
}

function readBlock(lines, at) {
  const line = lines[at];
  if (!line.trim()) return { kind: "blank", end: at + 1 };
  const fence = FENCE.exec(line);
  if (fence) return readCode(lines, at, fence);
  const heading = HEADING.exec(line);
  if (heading) return { kind: "heading", level: heading[1].length, text: heading[2], end: at + 1 };
  if (RULE.test(line)) return { kind: "rule", end: at + 1 };
  if (QUOTE.test(line)) return readQuote(lines, at);
  if (ITEM.test(line)) return readList(lines, at);
  let end = at + 1;
  while (end < lines.length && lines[end].trim() && !begins(lines[end])) end += 1;
  return { kind: "paragraph", text: lines.slice(at, end).join("\n"), end };
}

const begins = (line) => [FENCE, HEADING, RULE, QUOTE, ITEM].some((pattern) => pattern.test(line));

function readCode(lines, at, fence) {
  const close = new RegExp(`^ {0,3}${fence[1][0]}{${fence[1].length},}\\s*$`);
  let end = at + 1;
  while (end < lines.length && !close.test(lines[end])) end += 1;
  return { kind: "code", language: fence[2], text: lines.slice(at + 1, end).join("\n"), end: Math.min(end + 1, lines.length) };
}

function readQuote(lines, at) {
  const inner = [];
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) inner.push(QUOTE.exec(lines[end++])[1]);
  return { kind: "quote", text: inner.join("\n"), end };
}

function readList(lines, at) {
  const items = [];
  let end = at;
  while (end < lines.length) {
    const item = ITEM.exec(lines[end]);
    if (item) items.push({ indent: item[1].length, ordered: /\d/.test(item[2]), number: parseInt(item[2], 10), text: item[3] });
    else if (lines[end].trim() && /^\s/.test(lines[end])) items.at(-1).text += `\n${lines[end].trim()}`;
    else if (lines[end].trim() || !ITEM.test(lines[end + 1] ?? "")) break;
    end += 1;
  }
  return { kind: "list", items, end };
}

/** Show a text in an element; blocks that are there already stay as they are, so that a growing text costs little. */
export function showMarkdown(element, text) {
  const blocks = blocksOf(text);
  const children = [...element.children];
  blocks.forEach((block, index) => {
    const key = `${block.kind}\n${block.source}`;
    const old = children[index];
    if (old && old.markdownKey === key) return;
    const fresh = elementOf(block, 0);
    fresh.markdownKey = key;
    if (old) old.replaceWith(fresh);
    else element.append(fresh);
  });
  for (const surplus of children.slice(blocks.length)) surplus.remove();
}

function elementOf(block, depth) {
  switch (block.kind) {
    case "code":
      return codeOf(block);
    case "heading":
      return h(`h${Math.min(6, block.level + 2)}`, {}, inline(block.text));
    case "rule":
      return h("hr");
    case "quote":
      return h("blockquote", {}, depth < MAX_DEPTH ? blocksOf(block.text).map((inner) => elementOf(inner, depth + 1)) : block.text);
    case "list":
      return listsOf(block.items);
    default:
      return h("p", {}, inline(block.text));
  }
}

function listsOf(items) {
  const lists = [];
  for (let at = 0; at < items.length; ) {
    const list = listOf(items, at, 0);
    lists.push(list.element);
    at = list.end;
  }
  return lists.length === 1 ? lists[0] : h("div", {}, lists);
}

function listOf(items, begin, depth) {
  const first = items[begin];
  const element = first.ordered ? h("ol", { start: first.number === 1 ? null : first.number }) : h("ul");
  let at = begin;
  while (at < items.length && items[at].indent >= first.indent) {
    if (items[at].indent > first.indent + 1 && element.lastChild && depth < MAX_DEPTH) {
      const inner = listOf(items, at, depth + 1);
      element.lastChild.append(inner.element);
      at = inner.end;
    } else {
      if (items[at].ordered !== first.ordered && items[at].indent === first.indent) break;
      element.append(h("li", {}, inline(items[at].text)));
      at += 1;
    }
  }
  return { element, end: at };
}

function codeOf(block) {
  const copy = h("button", { type: "button", class: "code-copy", "aria-label": "Copy this code" }, icon("copy"));
  copy.addEventListener("click", () => copyText(block.text, copy));
  const code = h("pre", { tabindex: "0" }, h("code", {}, block.text));
  return h("div", { class: "code" }, h("div", { class: "code-head" }, h("span", {}, block.language || "code"), copy), code);
}

/** Bold, italic and code within a line, as nodes. */
export function inline(text) {
  if (text.length > MAX_INLINE) return [text];
  const nodes = [];
  const pattern = /(`+)([\s\S]+?)\1(?!`)|(\*\*|__)(?=\S)([\s\S]*?\S)\3|(?<![\w*])([*_])(?=[^\s*_])([^*_]*?[^\s*_])\5(?![\w*])/g;
  let end = 0;
  for (const match of text.matchAll(pattern)) {
    nodes.push(text.slice(end, match.index));
    if (match[1]) nodes.push(h("code", {}, match[2].trim() || match[2]));
    else if (match[3]) nodes.push(h("strong", {}, inline(match[4])));
    else nodes.push(h("em", {}, match[6]));
    end = match.index + match[0].length;
  }
  nodes.push(text.slice(end));
  return nodes.filter((node) => node !== "");
}

/** Copy, and show on the button that it was done. */
export async function copyText(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without https, browsers have no clipboard for pages of other machines.
    const area = h("textarea", { class: "hidden" });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    button.focus();
  }
  const before = button.querySelector("svg");
  const done = icon("check");
  before.replaceWith(done);
  setTimeout(() => done.replaceWith(before), 1200);
}
