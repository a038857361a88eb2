// Fails when src/lib/api/schema.ts is not what openapi.json says.
import { readFileSync } from "node:fs";
import openapiTS, { astToString } from "openapi-typescript";
import { format, resolveConfig } from "prettier";

const target = new URL("../src/lib/api/schema.ts", import.meta.url);
const committed = readFileSync(target, "utf8");
const ast = await openapiTS(new URL("../openapi.json", import.meta.url), { alphabetize: true });
const options = { ...(await resolveConfig(target)), filepath: target.pathname };
// The command writes a heading of its own before the types; only the types are compared.
const body = (text) => text.slice(text.indexOf("export interface paths"));
const fresh = await format(astToString(ast), options);
if (body(fresh) !== body(await format(committed, options))) {
  console.error("src/lib/api/schema.ts is stale. Run: npm run generate");
  process.exit(1);
}
