// Audit actions in words. One without words of its own is still readable.
import { humanize } from "@/lib/format/labels";

const WORDS: Record<string, string> = {
  "session.create": "Sign in",
  "session.create_token": "Sign in (other client)",
  "session.refresh": "Token renewed",
  "session.revoke": "Sign out",
  "session.end_reused": "Session ended: token used twice",
  "instance.setup": "Set up",
  "device.enroll": "Device enrolled",
  "device.approve": "Device let in",
  "device.reject": "Device turned away",
  "device.update": "Device changed",
  "device.decommission": "Device decommissioned",
  "enrollment_key.create": "Enrolment key created",
  "enrollment_key.revoke": "Enrolment key revoked",
  "audit_log.export": "Audit log exported",
  "audit_log.set_retention": "Audit retention set",
  "audit.archive": "Audit entries archived",
};

/** A refused read is named by its permission, `devices:read`. */
export function actionWords(action: string): string {
  return WORDS[action] ?? humanize(action.replace(":", " "));
}
