// Joins class names; a later Tailwind class wins over an earlier one of the same kind.
import { clsx, type ClassValue } from "clsx";
import { extendTailwindMerge } from "tailwind-merge";

const merge = extendTailwindMerge({
  extend: {
    classGroups: { "font-size": [{ text: ["2xs", "xs", "sm", "base", "lg", "xl", "2xl"] }] },
  },
});

export function cn(...parts: ClassValue[]): string {
  return merge(clsx(parts));
}
