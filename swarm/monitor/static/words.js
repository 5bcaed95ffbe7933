// Numbers, times, blocks and addresses as a person reads them.

const whole = new Intl.NumberFormat("en");

export const count = (number) => (number < 1000 ? String(number) : whole.format(number)); // the first is much faster

export function many(number, noun) {
  return `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
}

export function rate(perSecond) {
  if (!(perSecond > 0)) return "0";
  if (perSecond >= 1e6) return `${Number((perSecond / 1e6).toPrecision(3))} M`;
  return perSecond >= 100 ? count(Math.round(perSecond)) : String(Number(perSecond.toPrecision(perSecond < 10 ? 2 : 3)));
}

// The last block included, as people count: 12–15, or 7 alone.
export function blocks(start, end) {
  return end - start === 1 ? String(start) : `${start}–${end - 1}`;
}

export function age(seconds) {
  if (!(seconds >= 0)) return "–";
  for (const [unit, size] of [["d", 86400], ["h", 3600], ["min", 60]]) {
    if (seconds >= size) return `${seconds < 10 * size ? Number((seconds / size).toFixed(1)) : Math.floor(seconds / size)} ${unit}`;
  }
  return `${Math.floor(seconds)} s`;
}

export function milliseconds(seconds) {
  return seconds === null ? "–" : seconds < 1 ? `${Number((1e3 * seconds).toPrecision(3))} ms` : `${seconds.toFixed(2)} s`;
}

export const shortPeer = (peer) => `…${peer.slice(-8)}`;

export const nameOf = (server) => server.name || shortPeer(server.peer);

export function endpoint(addr) {
  const parts = addr.split("/");
  const at = (name) => (parts.includes(name) ? parts[parts.indexOf(name) + 1] : "");
  const host = at("ip4") || (at("ip6") && `[${at("ip6")}]`) || at("dns4") || at("dns6") || at("dns");
  const port = at("tcp") || at("udp");
  if (!host) return addr;
  return `${host}${port ? `:${port}` : ""}${parts.includes("p2p-circuit") ? " (relay)" : ""}`;
}

// One address is enough for a list; direct ports stand beside libp2p's and are not told apart there.
export function firstEndpoint(addrs) {
  return addrs.length ? endpoint(addrs.find((addr) => !addr.includes("/tls")) ?? addrs[0]) : "–";
}

export function clock(at, span) {
  const date = new Date(1e3 * at);
  if (span <= 86400) return date.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
  return date.toLocaleDateString("en-GB", { day: "numeric", month: "short" });
}

const ON_CPU = new Set(["avx512vnni", "avx2", "portable", "torch", "transformers"]);

// What computes: a record names the kernel, which tells the device. Names that only a newer server knows stand for themselves.
export function device(kernel) {
  if (kernel === "cuda") return "CUDA";
  return ON_CPU.has(kernel) ? `CPU, ${kernel}` : kernel || "not told";
}

export const STANDINGS = {
  serving: "serving",
  joining: "joining",
  leaving: "leaving",
  unreachable: "unreachable",
  "other checkpoint": "other checkpoint",
};
