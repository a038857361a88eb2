// The entries of the rail: only what exists.
import {
  Activity,
  BookOpen,
  Gauge,
  Hourglass,
  KeyRound,
  Monitor,
  ScrollText,
  type LucideIcon,
} from "lucide-react";

export interface NavEntry {
  to:
    | "/"
    | "/devices"
    | "/audit"
    | "/settings/enrolment-keys"
    | "/settings/pending-devices"
    | "/settings/api"
    | "/status";
  label: string;
  icon: LucideIcon;
  /** Words that the palette also finds it by. */
  also?: string;
}

export const MAIN: readonly NavEntry[] = [
  { to: "/", label: "Overview", icon: Gauge, also: "home dashboard" },
  { to: "/devices", label: "Devices", icon: Monitor, also: "machines computers endpoints" },
  { to: "/audit", label: "Audit", icon: ScrollText, also: "log history" },
];

export const SETTINGS: readonly NavEntry[] = [
  {
    to: "/settings/enrolment-keys",
    label: "Enrolment keys",
    icon: KeyRound,
    also: "install enrollment",
  },
  { to: "/settings/pending-devices", label: "Pending devices", icon: Hourglass, also: "approve" },
  { to: "/settings/api", label: "API documentation", icon: BookOpen, also: "openapi developers" },
];

export const SYSTEM: readonly NavEntry[] = [
  { to: "/status", label: "System status", icon: Activity, also: "health roles lanes" },
];
