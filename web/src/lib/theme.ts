// Light, dark, or as the system says. The first paint is coloured by public/theme.js.
import { createStore } from "@/lib/store";

export type ThemeChoice = "light" | "dark" | "system";
const KEY = "breeze.theme";

function stored(): ThemeChoice {
  try {
    const value = localStorage.getItem(KEY);
    return value === "light" || value === "dark" ? value : "system";
  } catch {
    return "system";
  }
}

const systemDark =
  typeof matchMedia === "function" ? matchMedia("(prefers-color-scheme: dark)") : null;

export const themeChoice = createStore<ThemeChoice>(stored());

function resolve(choice: ThemeChoice): "light" | "dark" {
  if (choice !== "system") return choice;
  return systemDark?.matches === true ? "dark" : "light";
}

/** What is shown now; graphs redraw when it changes. */
export const theme = createStore<"light" | "dark">(resolve(stored()));

function apply() {
  const next = resolve(themeChoice.get());
  document.documentElement.dataset.theme = next;
  theme.set(next);
}

export function chooseTheme(choice: ThemeChoice) {
  themeChoice.set(choice);
  try {
    if (choice === "system") localStorage.removeItem(KEY);
    else localStorage.setItem(KEY, choice);
  } catch {
    // Storage refused: the choice lasts until the page is closed.
  }
  apply();
}

systemDark?.addEventListener("change", apply);
