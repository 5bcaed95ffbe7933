// One message on the page: what was said, what can be done with it, and where an answer came from.

import { h, icon } from "./dom.js";
import { copyText, showMarkdown } from "./markdown.js";
import { strip, summary } from "./route.js";

const ENDINGS = {
  length: "cut at the longest answer that the settings allow",
  stopped: "stopped",
  broken: "broke off",
};

function action(name, label, run) {
  const button = h("button", { type: "button", class: "icon-button small", "aria-label": label, title: label }, icon(name));
  button.addEventListener("click", () => run(button));
  return button;
}

/** Return the element of a question; `edited` is told the new text. */
export function questionElement(message, { edited, isBusy }) {
  const text = h("div", { class: "said" }, message.content);
  const item = h("li", { class: "message user" }, h("span", { class: "hidden" }, "You:"), text);
  const edit = () => {
    if (!isBusy()) startEdit(item, message.content, edited);
  };
  item.append(
    h("div", { class: "actions" }, action("copy", "Copy", (button) => copyText(message.content, button)), action("edit", "Edit", edit)),
  );
  item.startEdit = edit;
  return item;
}

function startEdit(item, text, edited) {
  if (item.querySelector("form")) return;
  const area = h("textarea", { "aria-label": "Edit your message" });
  area.value = text;
  area.rows = Math.min(12, text.split("\n").length + 1);
  const form = h(
    "form",
    { class: "edit" },
    area,
    h("div", { class: "edit-foot" }, h("button", { type: "button", class: "button" }, "Cancel"), h("button", { type: "submit", class: "button primary" }, "Send")),
  );
  const leave = () => {
    form.remove();
    item.classList.remove("editing");
  };
  form.querySelector("button").addEventListener("click", leave);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (area.value.trim()) edited(area.value);
  });
  area.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      event.stopPropagation();
      leave();
    } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
  item.classList.add("editing");
  item.append(form);
  area.focus();
  area.setSelectionRange(text.length, text.length);
}

/** An answer: its element, which is brought up to date as words and the route come in. */
export class AnswerView {
  constructor(message, { again, showRoute }) {
    this.message = message;
    this.text = h("div", { class: "said markdown" });
    this.waiting = h("span", { class: "waiting", role: "img", "aria-label": "The swarm is thinking" }, h("i"), h("i"), h("i"));
    this.foot = h("div", { class: "foot" });
    this.element = h("li", { class: "message assistant" }, h("span", { class: "hidden" }, "Answer:"), this.text, this.waiting, this.foot);
    this.again = action("again", "Answer again (Alt R)", again);
    this.copy = action("copy", "Copy", (button) => copyText(message.content, button));
    this.showRoute = showRoute;
    this.isLive = false;
    this.update();
  }

  /** Show what the message holds now, at the next frame. */
  later() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.update();
    });
  }

  update() {
    showMarkdown(this.text, this.message.content);
    this.waiting.hidden = !this.isLive || this.message.content !== "";
    this.element.classList.toggle("live", this.isLive);
    this.element.setAttribute("aria-busy", String(this.isLive));
    this.showFoot();
  }

  showFoot() {
    const { route, ending } = this.message;
    const key = JSON.stringify([route?.hops.map((hop) => [hop.peer, hop.start]), route && summary(route), ending, this.isLive]);
    if (key === this.footKey) return;
    this.footKey = key;
    const parts = [];
    if (route?.hops.length) {
      const line = h("button", { type: "button", class: "route-line", "aria-label": `Route of this answer: ${summary(route)}` }, strip(route.hops), h("span", {}, summary(route)));
      line.addEventListener("click", () => this.showRoute(this.message));
      parts.push(line);
    }
    if (ending && ENDINGS[ending]) parts.push(h("span", { class: "ending" }, ENDINGS[ending]));
    if (!this.isLive) parts.push(h("div", { class: "actions" }, this.copy, this.again));
    this.foot.replaceChildren(...parts);
  }
}

/** Return the element that tells what went wrong. */
export function faultElement(fault, again) {
  const retry = h("button", { type: "button", class: "button" }, icon("again"), "Try again");
  retry.addEventListener("click", again);
  return h(
    "li",
    { class: "message fault", role: "alert" },
    icon("alert"),
    h("div", {}, h("strong", {}, fault.title ?? "Something went wrong"), h("p", {}, fault.message), h("p", { class: "remedy" }, fault.remedy ?? "Load the page again."), retry),
  );
}
