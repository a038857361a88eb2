// Lint rules: types, hooks, accessibility, and the direction of imports
// (shared -> features -> app; no feature knows another).
import js from "@eslint/js";
import a11y from "eslint-plugin-jsx-a11y";
import hooks from "eslint-plugin-react-hooks";
import { readdirSync } from "node:fs";
import tseslint from "typescript-eslint";

const features = readdirSync(new URL("./src/features", import.meta.url));

const noEscape = [{ group: ["../*/*", "../../*"], message: "Import across folders with @/…" }];

export default tseslint.config(
  { ignores: ["dist", "src/lib/api/schema.ts", "test-results", "playwright-report", "shots"] },
  js.configs.recommended,
  {
    files: ["**/*.{ts,tsx}"],
    extends: [tseslint.configs.strictTypeChecked, tseslint.configs.stylisticTypeChecked],
    languageOptions: {
      parserOptions: { project: "./tsconfig.json", tsconfigRootDir: import.meta.dirname },
    },
    rules: {
      "@typescript-eslint/consistent-type-definitions": "off",
      "@typescript-eslint/no-confusing-void-expression": ["error", { ignoreArrowShorthand: true }],
      "@typescript-eslint/restrict-template-expressions": ["error", { allowNumber: true }],
      "@typescript-eslint/no-misused-promises": [
        "error",
        { checksVoidReturn: { attributes: false } },
      ],
      "@typescript-eslint/only-throw-error": "off",
      "@typescript-eslint/consistent-type-imports": "error",
      "@typescript-eslint/switch-exhaustiveness-check": [
        "error",
        { considerDefaultExhaustiveForUnions: true },
      ],
      // `as T` after an index that is known to be there says what `!` may not (see strict).
      "@typescript-eslint/non-nullable-type-assertion-style": "off",
      "no-console": "error",
      "max-lines": ["error", { max: 420, skipBlankLines: true, skipComments: true }],
      "no-restricted-syntax": [
        "error",
        {
          selector: "JSXAttribute[name.name='dangerouslySetInnerHTML']",
          message: "What a device sent is text, never markup.",
        },
      ],
    },
  },
  {
    files: ["src/**/*.tsx"],
    ...a11y.flatConfigs.recommended,
    rules: {
      ...a11y.flatConfigs.recommended.rules,
      // Pages that are one form, and dialogs opened to type in, start in their first field.
      "jsx-a11y/no-autofocus": "off",
      "jsx-a11y/label-has-associated-control": [
        "error",
        { controlComponents: ["Checkbox", "Input", "Select"], depth: 4 },
      ],
      // Ctrl-Enter in a form; what scrolls must be reachable by keyboard.
      "jsx-a11y/no-noninteractive-element-interactions": ["error", { form: ["onKeyDown"] }],
      "jsx-a11y/no-noninteractive-tabindex": ["error", { tags: ["pre"], roles: ["status"] }],
    },
  },
  {
    files: ["src/**/*.{ts,tsx}"],
    plugins: { "react-hooks": hooks },
    rules: {
      "react-hooks/rules-of-hooks": "error",
      "react-hooks/exhaustive-deps": "error",
    },
  },
  {
    files: ["src/lib/**", "src/components/**"],
    rules: {
      "no-restricted-imports": [
        "error",
        {
          patterns: [
            ...noEscape,
            { group: ["@/features/*", "@/app/*"], message: "Shared code knows no feature." },
          ],
        },
      ],
    },
  },
  ...features.map((feature) => ({
    files: [`src/features/${feature}/**`],
    rules: {
      "no-restricted-imports": [
        "error",
        {
          patterns: [
            ...noEscape,
            { group: ["@/app/*"], message: "The app composes features, not the reverse." },
            {
              group: features.filter((f) => f !== feature).map((f) => `@/features/${f}/*`),
              message: "A feature knows no other feature: lift what both need.",
            },
          ],
        },
      ],
    },
  })),
  {
    files: ["**/*.{js,mjs}"],
    languageOptions: {
      globals: {
        process: "readonly",
        console: "readonly",
        URL: "readonly",
        Buffer: "readonly",
        setInterval: "readonly",
        setTimeout: "readonly",
        document: "readonly",
        localStorage: "readonly",
        matchMedia: "readonly",
        window: "readonly",
        innerWidth: "readonly",
      },
    },
  },
);
