import { beforeEach, describe, expect, it } from "vitest";
import {
  BACKOFF_MAX_MS,
  BACKOFF_MIN_MS,
  LiveClient,
  PING_EVERY_MS,
  SILENCE_MAX_MS,
  type SocketLike,
} from "@/lib/live/client";

/** A clock that only moves when told to. */
class Clock {
  now = 0;
  private timers: { at: number; fn: () => void }[] = [];
  waits: number[] = [];

  later = (fn: () => void, ms: number) => {
    const timer = { at: this.now + ms, fn };
    this.timers.push(timer);
    this.waits.push(ms);
    return () => {
      this.timers = this.timers.filter((other) => other !== timer);
    };
  };

  async advance(ms: number) {
    const end = this.now + ms;
    for (;;) {
      const next = this.timers.filter((timer) => timer.at <= end).sort((a, b) => a.at - b.at)[0];
      if (next === undefined) break;
      this.timers = this.timers.filter((timer) => timer !== next);
      this.now = next.at;
      next.fn();
      await settle();
    }
    this.now = end;
  }
}

const settle = async () => {
  for (let i = 0; i < 5; i += 1) await Promise.resolve();
};

class FakeSocket implements SocketLike {
  readyState = 0;
  sent: unknown[] = [];
  onopen: (() => void) | null = null;
  onmessage: ((event: { data: unknown }) => void) | null = null;
  onclose: (() => void) | null = null;
  onerror: (() => void) | null = null;
  send(data: string) {
    this.sent.push(JSON.parse(data));
  }
  close() {
    this.readyState = 3;
  }
  opens() {
    this.readyState = 1;
    this.onopen?.();
  }
  drops() {
    this.readyState = 3;
    this.onclose?.();
  }
  says(message: unknown) {
    this.onmessage?.({ data: typeof message === "string" ? message : JSON.stringify(message) });
  }
}

const signedOut = new Error("signed out");
let clock: Clock;
let sockets: FakeSocket[];
let tickets: number;
let ticket: () => Promise<string>;
let client: LiveClient;

beforeEach(() => {
  clock = new Clock();
  sockets = [];
  tickets = 0;
  ticket = () => Promise.resolve(`ticket-${(tickets += 1)}`);
  client = new LiveClient({
    ticket: () => ticket(),
    open: () => {
      const socket = new FakeSocket();
      sockets.push(socket);
      return socket;
    },
    later: clock.later,
    random: () => 0.5,
    isFinal: (error) => error === signedOut,
  });
});

const last = () => sockets.at(-1) as FakeSocket;

async function start() {
  client.start();
  await settle();
  last().opens();
}

describe("the live connection", () => {
  it("subscribes once for a topic and gives its messages to everybody", async () => {
    const seen: string[] = [];
    const off = client.subscribe("devices", () => seen.push("a"));
    client.subscribe("devices", () => seen.push("b"));
    await start();
    expect(client.state).toBe("live");
    expect(last().sent).toEqual([{ subscribe: ["devices"] }]);
    last().says({ topic: "devices", type: "changed", data: {} });
    last().says({ topic: "other", type: "changed" });
    last().says("not json");
    last().says("null");
    expect(seen).toEqual(["a", "b"]);
    off();
    last().says({ topic: "devices" });
    expect(seen).toEqual(["a", "b", "b"]);
  });

  it("unsubscribes with the last listener", async () => {
    await start();
    const off = client.subscribe("device:1", () => undefined);
    off();
    expect(last().sent).toEqual([{ subscribe: ["device:1"] }, { unsubscribe: ["device:1"] }]);
  });

  it("comes back with a new ticket, subscribes again and says that something was missed", async () => {
    let resumed = 0;
    client.onResume(() => (resumed += 1));
    client.subscribe("devices", () => undefined);
    await start();
    expect(resumed).toBe(0);
    last().drops();
    expect(client.state).toBe("waiting");
    await clock.advance(BACKOFF_MIN_MS);
    expect(sockets).toHaveLength(2);
    expect(tickets).toBe(2);
    last().opens();
    expect(last().sent).toEqual([{ subscribe: ["devices"] }]);
    expect(resumed).toBe(1);
  });

  it("waits longer each time, with a ceiling, and starts anew after success", async () => {
    ticket = () => Promise.reject(new Error("down"));
    client.start();
    await settle();
    await clock.advance(10 * BACKOFF_MAX_MS);
    const waits = clock.waits.slice(0, 9);
    // With chance at one half: three quarters of the ceiling.
    expect(waits[0]).toBe(BACKOFF_MIN_MS * 0.75);
    expect(waits[1]).toBe(BACKOFF_MIN_MS * 2 * 0.75);
    expect(Math.max(...clock.waits)).toBe(BACKOFF_MAX_MS * 0.75);
    ticket = () => Promise.resolve("t");
    await clock.advance(BACKOFF_MAX_MS);
    last().opens();
    expect(client.state).toBe("live");
    clock.waits = [];
    last().drops();
    expect(clock.waits[0]).toBe(BACKOFF_MIN_MS * 0.75);
  });

  it("takes silence for a dead connection, and pings so that a living one is not silent", async () => {
    await start();
    await clock.advance(PING_EVERY_MS);
    expect(last().sent).toEqual([{ ping: 1 }]);
    last().says({ pong: 1 });
    await clock.advance(SILENCE_MAX_MS - 1);
    expect(client.state).toBe("live");
    await clock.advance(2);
    expect(client.state).not.toBe("live");
  });

  it("stops for good when the session is gone", async () => {
    ticket = () => Promise.reject(signedOut);
    client.start();
    await settle();
    expect(client.state).toBe("off");
    await clock.advance(10 * BACKOFF_MAX_MS);
    expect(sockets).toHaveLength(0);
  });

  it("does not open a socket for a ticket that came after it was stopped", async () => {
    client.start();
    client.stop();
    await settle();
    expect(sockets).toHaveLength(0);
    expect(client.state).toBe("off");
  });

  it("hurries when the network is back", async () => {
    await start();
    last().drops();
    client.hurry();
    await settle();
    expect(sockets).toHaveLength(2);
  });
});
