// The state of a key: a shape and a word.
import { Ban, CircleCheck, Clock, PackageCheck } from "lucide-react";
import type { EnrollmentKey } from "@/lib/api/types";
import { cn } from "@/lib/cn";

const STATE = {
  active: { label: "Active", icon: CircleCheck, tone: "text-online" },
  expired: { label: "Expired", icon: Clock, tone: "text-offline" },
  used_up: { label: "Used up", icon: PackageCheck, tone: "text-offline" },
  revoked: { label: "Revoked", icon: Ban, tone: "text-critical" },
} as const;

export function KeyState({ state }: { state: EnrollmentKey["state"] }) {
  const { label, icon: Icon, tone } = STATE[state];
  return (
    <span className="inline-flex items-center gap-1.5 align-middle whitespace-nowrap">
      <Icon size={14} className={cn("shrink-0", tone)} aria-hidden /> {label}
    </span>
  );
}
