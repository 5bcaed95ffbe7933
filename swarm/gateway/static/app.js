// The chat page: what is shown when, and what keys and buttons do.

import { complete, routeOf } from "./api.js";
import { byId, h, icon, placeIcons } from "./dom.js";
import { AnswerView, faultElement, questionElement } from "./messages.js";
import { chooseModel, chosenModel, drawState, numBlocks, watchModels } from "./models.js";
import { show, toggle, uncover, wirePanes } from "./panes.js";
import { newsOf, showRoute } from "./route.js";
import { openSettings, optionsOf, readSettings } from "./settings.js";
import * as store from "./store.js";

const ROUTE_EVERY = 500; // milliseconds between looks at the route of an answer that is being written
const SAVE_EVERY = 1000;
const SPOKEN = 1000; // letters of an answer that are read aloud when it is whole
const IDEAS = ["Explain how a lighthouse works, in three sentences.", "Write a short poem about rain on a tin roof.", "What should I look at in a used bicycle?"];
const SHORTCUTS = [
  ["Enter", "send"],
  ["Shift Enter", "a new line"],
  ["Esc", "stop the answer; close what is open"],
  ["↑", "in an empty message: edit the last one"],
  ["/", "to the message"],
  ["Alt N", "new conversation"],
  ["Alt R", "answer the last question again"],
  ["Alt C", "copy the last answer"],
  ["Alt L", "earlier conversations"],
  ["Alt P", "the route that answers"],
  ["Alt S", "settings"],
  ["Alt K", "this list"],
];

const [messages, question, scroll] = ["messages", "question", "scroll"].map(byId);

let conversations = store.load();
let current = store.fresh(conversations[0]);
let answering = null; // {controller, view, message, conversation, id}
let shown = null; // the message whose route the panel shows
let isAtEnd = true;
let news = [];

// Conversations

function open(conversation) {
  stop();
  current = conversation;
  shown = current.messages.findLast((message) => message.route) ?? null;
  news = [];
  current.model = chooseModel(current.model);
  drawAll();
  uncover();
  toQuestion();
}

function remember() {
  current.changed = Date.now();
  if (!conversations.includes(current)) conversations.unshift(current);
  conversations = store.merged(conversations);
  store.save(conversations);
}

let saving = null;
function rememberSoon() {
  saving ??= setTimeout(() => {
    saving = null;
    store.save(conversations);
  }, SAVE_EVERY);
}

function forget(conversation) {
  conversations = store.without(conversations, conversation);
  store.save(conversations);
  if (conversation === current) open(store.fresh(current));
  else drawConversations();
}

function drawConversations() {
  const rows = conversations.filter((each) => each.messages.length).map((each) => {
    const title = store.titleOf(each);
    const go = h("button", { type: "button", class: "conversation", "aria-current": each === current ? "page" : null, onclick: () => open(each) }, title);
    const bin = h("button", { type: "button", class: "icon-button small", "aria-label": `Delete: ${title}`, title: "Delete" }, icon("bin"));
    bin.addEventListener("click", () => {
      if (bin.classList.contains("sure")) return forget(each);
      bin.classList.add("sure");
      bin.replaceChildren("Delete?");
      setTimeout(() => {
        bin.classList.remove("sure");
        bin.replaceChildren(icon("bin"));
      }, 3000);
    });
    return h("li", {}, go, bin);
  });
  byId("conversations").replaceChildren(...rows);
}

// Messages

function drawAll() {
  const items = current.messages.map((message, index) => elementOf(message, index));
  messages.replaceChildren(...items);
  byId("welcome").hidden = current.messages.length > 0;
  document.title = current.messages.length ? `${store.titleOf(current)} · swarm` : "Ask the swarm";
  isAtEnd = true;
  drawConversations();
  drawRoute();
  markSettings();
  toEnd();
}

function elementOf(message, index) {
  if (message.role === "user") return questionElement(message, { edited: (text) => edit(index, text), isBusy: () => answering !== null });
  return new AnswerView(message, { again, showRoute: showRouteOf }).element;
}

function edit(index, text) {
  current.messages.length = index;
  drawAll();
  say(text);
}

function say(text) {
  if (answering || !text.trim()) return;
  current.messages.push({ role: "user", content: text });
  remember();
  drawAll();
  answer();
}

function again() {
  if (answering || !current.messages.length) return;
  while (current.messages.at(-1)?.role === "assistant") current.messages.pop();
  if (!current.messages.length) return;
  drawAll();
  answer();
}

async function answer() {
  const conversation = current;
  const message = { role: "assistant", content: "" };
  const body = requestOf(conversation);
  conversation.messages.push(message);
  const view = new AnswerView(message, { again, showRoute: showRouteOf });
  view.isLive = true;
  view.update();
  messages.append(view.element);
  const mine = (answering = { controller: new AbortController(), view, message, conversation, id: null });
  shown = message;
  drawComposer();
  speak("Thinking");
  toEnd();
  const watching = setInterval(() => look(mine), ROUTE_EVERY);
  let fault = null;
  try {
    const ended = await complete(body, ({ id, text }) => hear(mine, id, text), mine.controller.signal);
    message.ending = ended.reason === "length" ? "length" : "";
  } catch (error) {
    message.ending = error.name === "AbortError" ? "stopped" : "broken";
    if (error.name !== "AbortError") fault = error;
  }
  clearInterval(watching);
  await finish(mine, fault);
}

function hear(mine, id, text) {
  const isFirst = mine.id === null;
  mine.id = id;
  mine.message.content += text;
  if (isFirst) look(mine);
  mine.view.later();
  rememberSoon();
  if (isAtEnd) requestAnimationFrame(toEnd);
}

async function finish(mine, fault) {
  const { message, conversation, view } = mine;
  if (answering === mine) answering = null;
  view.isLive = false;
  if (!message.content) conversation.messages.splice(conversation.messages.indexOf(message), 1);
  if (conversation.messages.length) store.save(conversations);
  if (conversation === current) {
    if (message.content) view.update();
    else view.element.remove();
    if (fault) messages.append(faultElement(fault, again));
    if (message.content) speak(fault ? fault.title : `${message.ending === "stopped" ? "Stopped" : "Answer"}: ${message.content.slice(0, SPOKEN)}`);
    else if (!fault) speak("Stopped");
    drawComposer();
    if (isAtEnd) toEnd();
  }
  await look(mine, true);
  drawRoute();
}

function requestOf({ model, settings, messages: said }) {
  const system = settings.system?.trim() ? [{ role: "system", content: settings.system }] : [];
  return { model: model || chosenModel(), messages: [...system, ...said.map(({ role, content }) => ({ role, content }))], ...optionsOf(settings) };
}

function stop() {
  answering?.controller.abort();
}

/** See which way an answer takes. */
async function look(mine, isLast = false) {
  if (mine.id === null || (mine.isLooking && !isLast)) return;
  mine.isLooking = true;
  const route = await routeOf(mine.id);
  mine.isLooking = false;
  if (!route?.hops?.length || (mine.isOver && !isLast)) return;
  mine.isOver = isLast;
  const text = newsOf(mine.message.route, route);
  if (text) {
    news.push({ time: new Date().toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" }), text });
    speak(text);
  }
  mine.message.route = route;
  mine.view.update();
  if (isLast) store.save(conversations);
  if (shown === mine.message) drawRoute();
}

function showRouteOf(message) {
  shown = message;
  drawRoute();
  show("panel");
}

function drawRoute() {
  const route = shown?.route ?? null;
  showRoute(byId("route"), { numBlocks: numBlocks(route?.model ?? current.model), route, isLive: answering !== null && answering.message === shown, news });
}

// The composer

function drawComposer() {
  const send = byId("send");
  const isBusy = answering !== null;
  send.replaceChildren(icon(isBusy ? "stop" : "send"));
  send.setAttribute("aria-label", isBusy ? "Stop the answer (Esc)" : "Send (Enter)");
  send.classList.toggle("busy", isBusy);
  send.disabled = !isBusy && !question.value.trim();
}

function fit() {
  question.style.height = "auto";
  question.style.height = `${Math.min(question.scrollHeight, innerHeight * 0.4)}px`;
  drawComposer();
}

/** Put the cursor there, but where that brings up a keyboard over half of the page. */
function toQuestion() {
  if (matchMedia("(hover: hover)").matches) question.focus();
}

function send() {
  if (answering) return;
  const text = question.value;
  if (!text.trim()) return;
  question.value = "";
  fit();
  say(text);
}

function toEnd() {
  scroll.scrollTop = scroll.scrollHeight;
}

function speak(text) {
  byId("spoken").textContent = text;
}

function takeSettings() {
  current.settings = readSettings();
  if (current.messages.length) remember();
  markSettings();
}

/** Show that the model is told something before what can be seen. */
function markSettings() {
  byId("settings").classList.toggle("set", Boolean(current.settings.system?.trim()));
}

function copyLast() {
  messages.querySelector(".assistant:last-of-type .foot [aria-label=Copy]")?.click();
}

function editLast() {
  [...messages.querySelectorAll(".user")].at(-1)?.startEdit();
}

// Keys and buttons

const ALT = {
  KeyN: () => open(store.fresh(current)),
  KeyR: again,
  KeyC: copyLast,
  KeyL: () => toggle("side"),
  KeyP: () => toggle("panel"),
  KeyS: () => openSettings(current.settings),
  KeyK: () => byId("help-dialog").showModal(),
};

function onKey(event) {
  if (event.isComposing || document.querySelector("dialog[open]")) return;
  const isTyping = event.target.matches("input, textarea, select");
  if (event.altKey && !event.ctrlKey && !event.metaKey && ALT[event.code]) {
    event.preventDefault();
    ALT[event.code]();
  } else if (event.key === "Escape") {
    if (answering) stop();
    else uncover();
  } else if (event.key === "/" && !isTyping && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    question.focus();
  }
}

function onQuestionKey(event) {
  if (event.key === "Enter" && !event.shiftKey && !event.altKey && !event.isComposing) {
    event.preventDefault();
    send();
  } else if (event.key === "ArrowUp" && !question.value && !answering) {
    event.preventDefault();
    editLast();
  }
}

function wire() {
  const on = (id, event, run) => byId(id).addEventListener(event, run);
  placeIcons(document);
  on("composer", "submit", (event) => {
    event.preventDefault();
    if (answering) stop();
    else send();
  });
  question.addEventListener("keydown", onQuestionKey);
  question.addEventListener("input", fit);
  document.addEventListener("keydown", onKey);
  scroll.addEventListener("scroll", () => {
    isAtEnd = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 40;
    byId("latest").hidden = isAtEnd;
  });
  on("latest", "click", toEnd);
  on("new", "click", () => open(store.fresh(current)));
  on("model", "change", () => {
    current.model = chosenModel();
    shown = null;
    drawState();
    drawRoute();
  });
  on("settings", "click", ALT.KeyS);
  on("settings-dialog", "close", takeSettings);
  on("help", "click", ALT.KeyK);
  addEventListener("pagehide", () => store.save(conversations));
  addEventListener("storage", () => {
    conversations = store.merged(conversations);
    drawConversations();
  });
  byId("ideas").append(...IDEAS.map((idea) => h("li", {}, h("button", { type: "button", onclick: () => say(idea) }, idea))));
  byId("shortcuts").append(...SHORTCUTS.flatMap(([keys, what]) => [h("dt", {}, keys.split(" ").map((key) => h("kbd", {}, key))), h("dd", {}, what)]));
}

wire();
wirePanes();
drawAll();
fit();
toQuestion();
watchModels(() => {
  current.model = chooseModel(current.model, conversations[0]?.model);
  drawRoute();
});
