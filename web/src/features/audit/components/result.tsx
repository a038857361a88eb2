// How something ended, as sign and word.
import { CircleCheck, CircleX, ShieldX } from "lucide-react";
import { humanize } from "@/lib/format/labels";

const LOOK = {
  success: { Icon: CircleCheck, color: "text-online" },
  failure: { Icon: CircleX, color: "text-critical" },
  denied: { Icon: ShieldX, color: "text-warning" },
} as const;

export function Result({ result }: { result: keyof typeof LOOK }) {
  const { Icon, color } = LOOK[result];
  return (
    <span className="inline-flex items-center gap-1.5 align-middle">
      <Icon size={14} className={color} aria-hidden />
      {humanize(result)}
    </span>
  );
}
