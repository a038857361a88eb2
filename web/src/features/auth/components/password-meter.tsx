// The strength of a password, in words first; the bars repeat them.
import { judgePassword } from "@/features/auth/password";
import { cn } from "@/lib/cn";

const TONE = ["bg-critical", "bg-critical", "bg-warning", "bg-online"] as const;

export function PasswordMeter({ password, mine }: { password: string; mine: readonly string[] }) {
  const verdict = judgePassword(password, mine);
  return (
    <span className="mt-1 flex flex-col gap-1.5">
      <span className="flex gap-1" aria-hidden>
        {[1, 2, 3].map((step) => (
          <span
            key={step}
            className={cn(
              "h-1 flex-1 rounded-full",
              password !== "" && verdict.level >= step ? TONE[verdict.level] : "bg-surface-3",
            )}
          />
        ))}
      </span>
      <span aria-live="polite">{verdict.words}</span>
    </span>
  );
}
