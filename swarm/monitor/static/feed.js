// The event stream: the whole state first, then what each look at the swarm changed.

const RETRY = 3000;

export const keyOf = (model, peer) => `${model} ${peer}`;

export class Feed {
  // `onNews` is called at most once a frame, with what has changed since; `onLine` with whether we hear anything.
  constructor(onNews, onLine) {
    this.frame = { at: 0, problem: "", totals: {} };
    this.models = new Map();
    this.servers = new Map();
    this.onNews = onNews;
    this.onLine = onLine;
    this.isWaiting = false;
    this.open();
  }

  open() {
    const source = new EventSource("/api/v1/events");
    source.addEventListener("state", (event) => this.replace(JSON.parse(event.data)));
    source.addEventListener("change", (event) => this.change(JSON.parse(event.data)));
    source.onopen = () => this.onLine(true);
    source.onerror = () => {
      this.onLine(false);
      // The browser itself comes again after a broken line, but not after an answer that refused it.
      if (source.readyState === EventSource.CLOSED) setTimeout(() => this.open(), RETRY);
    };
  }

  replace(state) {
    this.models = new Map(state.models.map((model) => [model.name, model]));
    this.servers = new Map(state.servers.map((server) => [keyOf(server.model, server.peer), server]));
    this.tell(state);
  }

  change(news) {
    for (const model of news.models) this.models.set(model.name, model);
    for (const name of news.gone_models) this.models.delete(name);
    for (const server of news.servers) this.servers.set(keyOf(server.model, server.peer), server);
    for (const [model, peer] of news.gone) this.servers.delete(keyOf(model, peer));
    this.tell(news);
  }

  tell(frame) {
    this.frame = { at: frame.at, problem: frame.problem, totals: frame.totals, heard: performance.now() };
    if (this.isWaiting) return;
    this.isWaiting = true;
    requestAnimationFrame(() => {
      this.isWaiting = false;
      this.onNews();
    });
  }
}
