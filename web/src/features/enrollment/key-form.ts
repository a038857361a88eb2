// What the form of an enrolment key holds, and what is sent for it.
import type { CreateEnrollmentKey } from "@/lib/api/types";
import { z } from "@/lib/zod";

export const EXPIRIES = [
  { value: "86400", label: "1 day" },
  { value: "604800", label: "7 days" },
  { value: "2592000", label: "30 days" },
  { value: "31536000", label: "1 year" },
  { value: "", label: "Never" },
] as const;

export const USES_MAX = 1_000_000;

export const keySchema = z.object({
  name: z
    .string()
    .trim()
    .min(1, "Enter a name, such as the site or the roll-out.")
    .max(120, "Use at most 120 characters."),
  site_id: z.string(),
  expires_in_s: z.string(),
  max_uses: z
    .string()
    .trim()
    .refine(
      (text) =>
        text === "" || (/^\d+$/.test(text) && Number(text) >= 1 && Number(text) <= USES_MAX),
      "Enter a whole number from 1, or leave it empty for no limit.",
    ),
  requires_approval: z.boolean(),
});

export type KeyValues = z.infer<typeof keySchema>;

export const KEY_DEFAULTS: KeyValues = {
  name: "",
  site_id: "",
  expires_in_s: "604800",
  max_uses: "",
  requires_approval: false,
};

export function keyBody(values: KeyValues): CreateEnrollmentKey {
  return {
    name: values.name,
    requires_approval: values.requires_approval,
    ...(values.site_id === "" ? {} : { site_id: values.site_id }),
    ...(values.expires_in_s === "" ? {} : { expires_in_s: Number(values.expires_in_s) }),
    ...(values.max_uses === "" ? {} : { max_uses: Number(values.max_uses) }),
  };
}
