// Asking the gateway: models, an answer as it is written, the route that it takes.

const STALLED = 90000; // milliseconds without a byte after which an answer is given up

/** What went wrong: a title, what the gateway said, and what can be done about it. */
export class Fault extends Error {
  constructor(title, message, remedy) {
    super(message);
    this.title = title;
    this.remedy = remedy;
  }
}

const REMEDIES = {
  blocks_missing: ["Some blocks have no server", "Start a server for them, or wait until one comes back; then try again."],
  busy: ["The servers are busy", "Try again in some seconds."],
  overloaded: ["The gateway is busy", "Try again in some seconds."],
  unavailable: ["The swarm does not answer just now", "Try again; the doctor command names the leg that fails."],
  server_failed: ["A server failed", "Try again: another one may do better."],
  context_length_exceeded: ["The conversation is too long for this model", "Begin a new one, or lower the longest answer in the settings."],
  model_not_found: ["This model is not served", "Choose another one above."],
  invalid_api_key: ["The gateway wants a key", "Load the page again, and give the key as password."],
  rate_limit_exceeded: ["Your key has asked a lot", "Wait a little, then try again."],
  insufficient_quota: ["The key's tokens of today are used up", "They come back at midnight, UTC."],
  internal_error: ["The gateway failed", "Its log says more."],
};

function faultOf(error, status) {
  const [title, remedy] = REMEDIES[error?.code] ?? [`The gateway refused (${status})`, "Change what it names, then try again."];
  return new Fault(title, String(error?.message ?? "It did not say why."), remedy);
}

const unreachable = () =>
  new Fault("The gateway does not answer", "No connection could be made.", "See whether it still runs, then try again.");

async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw unreachable();
  }
  if (response.ok) return response;
  let body = null;
  try {
    body = await response.json();
  } catch {
    // whatever stands between us and the gateway answered in its own way
  }
  throw faultOf(body?.error, response.status);
}

/** Return the models: [{id, swarm: {num_blocks, servers, state, ...}}]. */
export async function listModels() {
  const { data } = await (await ask("v1/models")).json();
  return data;
}

/** Return the route of an answer, or null while there is none. */
export async function routeOf(id) {
  try {
    return await (await ask(`api/v1/route/${encodeURIComponent(id)}`)).json();
  } catch {
    return null;
  }
}

/**
 * Have an answer written.
 *
 * @param body What /v1/chat/completions takes; it is streamed in any case.
 * @param heard Told {id, text} as it comes.
 * @param signal Ends it.
 * @returns {reason, usage}, once it is whole.
 */
export async function complete(body, heard, signal) {
  const response = await ask("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  const ended = { reason: null, usage: null };
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return ended;
    const chunk = JSON.parse(data);
    if (chunk.error) throw faultOf(chunk.error, response.status);
    if (chunk.usage) ended.usage = chunk.usage;
    const choice = chunk.choices?.[0];
    ended.reason = choice?.finish_reason ?? ended.reason;
    heard({ id: chunk.id, text: choice?.delta?.content ?? "" });
  }
  throw new Fault("The answer broke off", "The connection to the gateway ended in the middle of it.", "Try again.");
}

async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await beforeStall(reader.read());
      if (done) return;
      const pieces = (rest + value).split(/\r?\n\r?\n/);
      rest = pieces.pop();
      for (const piece of pieces) {
        const lines = piece.split(/\r?\n/).filter((line) => line.startsWith("data:"));
        if (lines.length) yield lines.map((line) => line.slice(5).trimStart()).join("\n");
      }
    }
  } catch (error) {
    if (error instanceof Fault || error.name === "AbortError") throw error;
    throw new Fault("The answer broke off", "The connection to the gateway was lost in the middle of it.", "Try again.");
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function beforeStall(reading) {
  let timer;
  const stalled = new Promise((_, refuse) => {
    const fault = new Fault("The answer stands still", "Nothing has come for a long time.", "Try again.");
    timer = setTimeout(() => refuse(fault), STALLED);
  });
  try {
    return await Promise.race([reading, stalled]);
  } finally {
    clearTimeout(timer);
  }
}
