// A page that does not exist.
import { Link } from "@tanstack/react-router";
import { Compass } from "lucide-react";
import { buttonClass } from "@/components/ui/button";
import { EmptyState } from "@/components/ui/problem";

export function NotFound() {
  return (
    <main className="flex min-h-[70dvh] items-center justify-center">
      <EmptyState
        icon={<Compass size={20} aria-hidden />}
        title="There is no page here"
        action={
          <Link to="/" className={buttonClass("primary")}>
            Go to the overview
          </Link>
        }
      >
        The address may be mistyped, or what it showed has been removed.
      </EmptyState>
    </main>
  );
}
