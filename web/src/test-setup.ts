// What jsdom lacks and the tests need; unmounts what a test rendered.
import { cleanup } from "@testing-library/react";
import { afterEach, vi } from "vitest";

// Nothing has a size in jsdom, so nothing ever changes it.
class NoResizeObserver implements ResizeObserver {
  observe = vi.fn();
  unobserve = vi.fn();
  disconnect = vi.fn();
}
vi.stubGlobal("ResizeObserver", NoResizeObserver);
Element.prototype.scrollIntoView = vi.fn();

afterEach(() => {
  cleanup();
  localStorage.clear();
});
