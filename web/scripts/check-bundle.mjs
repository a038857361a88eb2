// Fails the build when the script before a page's own chunk grows past its budget, or when the
// page would ask another host for anything.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";

const BUDGET_KIB = 250;
const dist = new URL("../dist/", import.meta.url).pathname;
const manifest = JSON.parse(readFileSync(join(dist, ".vite/manifest.json"), "utf8"));

/** A chunk and everything that it imports before it can run. */
function closure(key, seen = new Set()) {
  if (seen.has(key)) return seen;
  seen.add(key);
  for (const next of manifest[key].imports ?? []) closure(next, seen);
  return seen;
}
const kib = (files) => {
  const bytes = [...files].map(
    (file) => gzipSync(readFileSync(join(dist, file)), { level: 9 }).length,
  );
  return bytes.reduce((sum, size) => sum + size, 0) / 1024;
};
const filesOf = (keys) =>
  new Set([...keys].map((key) => manifest[key].file).filter((f) => f.endsWith(".js")));

const entry = Object.keys(manifest).find((key) => manifest[key].isEntry);
// A person signed in always needs the shell: it counts as "before the page".
const shell = Object.keys(manifest).find((key) => key.endsWith("app/shell/shell.tsx"));
const first = filesOf([...closure(entry), ...closure(shell)]);
const size = kib(first);
console.log(`before a page's chunk: ${size.toFixed(1)} KiB gzipped of ${BUDGET_KIB}`);
for (const key of Object.keys(manifest).filter((k) => manifest[k].isDynamicEntry && k !== shell)) {
  const own = [...filesOf(closure(key))].filter((file) => !first.has(file));
  console.log(`  ${key.replace("src/", "")}: ${kib(own).toFixed(1)} KiB`);
}

const problems = [];
if (size > BUDGET_KIB)
  problems.push(`The first load is ${size.toFixed(1)} KiB, over ${BUDGET_KIB}.`);
const html = readFileSync(join(dist, "index.html"), "utf8");
if (/(src|href)="(https?:)?\/\//.test(html)) problems.push("index.html refers to another host.");
if (/<script(?![^>]*\bsrc=)/.test(html) || /<style|\son\w+=|\sstyle=/.test(html)) {
  problems.push("index.html holds inline script or style, which the policy refuses.");
}
for (const file of readdirSync(join(dist, "assets")).filter((name) => name.endsWith(".css"))) {
  const css = readFileSync(join(dist, "assets", file), "utf8");
  if (/url\(\s*["']?(https?:|\/\/|data:)/.test(css)) problems.push(`${file} loads from elsewhere.`);
}
if (problems.length > 0) {
  problems.forEach((problem) => console.error(problem));
  process.exit(1);
}
