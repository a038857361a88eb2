// One WebSocket for the whole page: ticket, subscriptions, reconnection with jitter.
// It knows no browser by itself: sockets, timers and chance are given, so tests hold the clock.

export type LiveState = "connecting" | "live" | "waiting" | "off";

export interface LiveMessage {
  topic?: string;
  type?: string;
  data?: unknown;
  detail?: string;
  pong?: number;
}

export interface SocketLike {
  readyState: number;
  send(data: string): void;
  close(): void;
  onopen: (() => void) | null;
  onmessage: ((event: { data: unknown }) => void) | null;
  onclose: (() => void) | null;
  onerror: (() => void) | null;
}

export interface LiveDeps {
  /** Asks for a one-time ticket. */
  ticket: () => Promise<string>;
  open: (ticket: string) => SocketLike;
  /** Runs `fn` after `ms`; the result cancels it. */
  later: (fn: () => void, ms: number) => () => void;
  /** 0..1 */
  random: () => number;
  /** True where the session is gone: a new try would fail for ever. */
  isFinal?: (error: unknown) => boolean;
}

export const BACKOFF_MIN_MS = 500;
export const BACKOFF_MAX_MS = 30_000;
export const PING_EVERY_MS = 20_000;
export const SILENCE_MAX_MS = 45_000;
const OPEN = 1;

type Handler = (message: LiveMessage) => void;

export class LiveClient {
  private socket: SocketLike | null = null;
  private readonly handlers = new Map<string, Set<Handler>>();
  private readonly stateListeners = new Set<() => void>();
  private readonly resumeListeners = new Set<() => void>();
  private current: LiveState = "off";
  private failures = 0;
  private wasLive = false;
  private pings = 0;
  private attempt = 0;
  private cancelRetry: (() => void) | null = null;
  private cancelPing: (() => void) | null = null;
  private cancelSilence: (() => void) | null = null;

  constructor(private readonly deps: LiveDeps) {}

  get state(): LiveState {
    return this.current;
  }

  onState = (listener: () => void): (() => void) => {
    this.stateListeners.add(listener);
    return () => this.stateListeners.delete(listener);
  };

  /** Told when the connection is back after a gap: what was missed must be asked for again. */
  onResume = (listener: () => void): (() => void) => {
    this.resumeListeners.add(listener);
    return () => this.resumeListeners.delete(listener);
  };

  start() {
    if (this.current === "off") this.connect();
  }

  stop() {
    this.attempt += 1;
    this.clearTimers();
    this.dropSocket();
    this.wasLive = false;
    this.set("off");
  }

  /** The network came back or the page is looked at again: do not wait for the timer. */
  hurry() {
    if (this.current === "waiting") this.connect();
  }

  /** Messages of a topic, until the returned function is called. */
  subscribe(topic: string, handler: Handler): () => void {
    let set = this.handlers.get(topic);
    if (set === undefined) {
      set = new Set();
      this.handlers.set(topic, set);
      this.send({ subscribe: [topic] });
    }
    set.add(handler);
    return () => {
      const left = this.handlers.get(topic);
      if (left?.delete(handler) === true && left.size === 0) {
        this.handlers.delete(topic);
        this.send({ unsubscribe: [topic] });
      }
    };
  }

  private connect() {
    this.clearTimers();
    this.dropSocket();
    this.set("connecting");
    this.attempt += 1;
    const attempt = this.attempt;
    this.deps.ticket().then(
      (ticket) => {
        if (attempt === this.attempt) this.open(ticket);
      },
      (error: unknown) => {
        if (attempt !== this.attempt) return;
        if (this.deps.isFinal?.(error) === true) this.stop();
        else this.retry();
      },
    );
  }

  private open(ticket: string) {
    const socket = this.deps.open(ticket);
    this.socket = socket;
    socket.onopen = () => {
      const resumed = this.wasLive;
      this.failures = 0;
      this.wasLive = true;
      this.set("live");
      const topics = [...this.handlers.keys()];
      if (topics.length > 0) this.send({ subscribe: topics });
      this.ping();
      this.heard();
      if (resumed) this.resumeListeners.forEach((listener) => listener());
    };
    socket.onmessage = (event) => {
      this.heard();
      this.receive(event.data);
    };
    socket.onclose = () => {
      if (this.socket === socket) this.retry();
    };
    socket.onerror = () => {
      // A close follows, and that is what is acted on.
    };
  }

  private receive(data: unknown) {
    if (typeof data !== "string") return;
    let message: LiveMessage;
    try {
      const parsed: unknown = JSON.parse(data);
      if (typeof parsed !== "object" || parsed === null) return;
      message = parsed;
    } catch {
      return; // Not ours; the next one may be.
    }
    if (typeof message.topic !== "string") return;
    this.handlers.get(message.topic)?.forEach((handler) => handler(message));
  }

  private retry() {
    this.clearTimers();
    this.dropSocket();
    this.set("waiting");
    const ceiling = Math.min(BACKOFF_MAX_MS, BACKOFF_MIN_MS * 2 ** this.failures);
    this.failures = Math.min(this.failures + 1, 16);
    // Full jitter over the upper half: a restarted server is not met by everybody at once.
    const wait = ceiling / 2 + (ceiling / 2) * this.deps.random();
    this.cancelRetry = this.deps.later(() => this.connect(), wait);
  }

  private ping() {
    this.cancelPing = this.deps.later(() => {
      this.pings += 1;
      this.send({ ping: this.pings });
      this.ping();
    }, PING_EVERY_MS);
  }

  private heard() {
    this.cancelSilence?.();
    this.cancelSilence = this.deps.later(() => this.retry(), SILENCE_MAX_MS);
  }

  private send(message: object) {
    if (this.socket?.readyState === OPEN) this.socket.send(JSON.stringify(message));
  }

  private dropSocket() {
    const socket = this.socket;
    this.socket = null;
    if (socket === null) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
  }

  private clearTimers() {
    this.cancelRetry?.();
    this.cancelPing?.();
    this.cancelSilence?.();
    this.cancelRetry = this.cancelPing = this.cancelSilence = null;
  }

  private set(state: LiveState) {
    if (state === this.current) return;
    this.current = state;
    this.stateListeners.forEach((listener) => listener());
  }
}
