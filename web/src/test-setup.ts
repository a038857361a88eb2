// What jsdom lacks and the tests need; unmounts what a test rendered.
import { cleanup } from "@testing-library/react";
import { afterEach } from "vitest";

class NoResizeObserver implements ResizeObserver {
  observe() {
    // Nothing has a size in jsdom.
  }
  unobserve() {
    // See above.
  }
  disconnect() {
    // See above.
  }
}
globalThis.ResizeObserver ??= NoResizeObserver;
Element.prototype.scrollIntoView ??= () => undefined;

afterEach(() => {
  cleanup();
  localStorage.clear();
});
