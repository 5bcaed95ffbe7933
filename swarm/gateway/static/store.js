// Conversations, kept in this browser and nowhere else.

const KEY = "swarm.conversations";
const MOST = 60;

/** What suits small models as well as large ones. */
const SETTINGS = { system: "", temperature: 0.6, top_p: 0.9, max_tokens: 1024 };

/** Return the conversations, newest first; what cannot be read is no conversation. */
export function load() {
  try {
    const found = JSON.parse(localStorage.getItem(KEY) ?? "[]");
    return Array.isArray(found) ? found.filter(isWhole) : [];
  } catch {
    return [];
  }
}

function isWhole(each) {
  return (
    typeof each?.id === "string" &&
    Array.isArray(each.messages) &&
    each.messages.every((message) => typeof message?.content === "string" && typeof message.role === "string")
  );
}

const gone = new Set();

/** Return these conversations and those that other windows have kept meanwhile, newest first. */
export function merged(conversations) {
  const mine = new Set(conversations.map((each) => each.id));
  const others = load().filter((each) => !mine.has(each.id) && !gone.has(each.id));
  return [...conversations, ...others].sort((one, other) => other.changed - one.changed);
}

/** Keep the conversations that have something in them; where there is no room, the oldest go. */
export function save(conversations) {
  let kept = merged(conversations).filter((each) => each.messages.length).slice(0, MOST);
  for (;;) {
    try {
      localStorage.setItem(KEY, JSON.stringify(kept));
      return;
    } catch {
      if (!kept.length) return; // storage is forbidden: they live as long as the page
      kept = kept.slice(0, -1);
    }
  }
}

/** Return the conversations without one, which is not to come back. */
export function without(conversations, one) {
  gone.add(one.id);
  return conversations.filter((each) => each !== one);
}

/** Return an empty conversation with another one's model and settings. */
export function fresh(like = {}) {
  return {
    id: `${Date.now().toString(36)}${Math.random().toString(36).slice(2, 8)}`,
    model: like.model ?? "",
    settings: { ...(like.settings ?? SETTINGS) },
    messages: [],
    changed: Date.now(),
  };
}

/** Return what to call a conversation. */
export function titleOf(conversation) {
  const first = conversation.messages.find((message) => message.role === "user")?.content ?? "";
  const line = first.trim().split("\n")[0];
  return line.length > 60 ? `${line.slice(0, 59)}…` : line || "New conversation";
}
