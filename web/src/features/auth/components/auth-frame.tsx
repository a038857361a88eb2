// The frame of the pages before one is signed in.
import type { ReactNode } from "react";
import { Logo } from "@/components/brand/logo";

export function AuthFrame({
  title,
  intro,
  children,
}: {
  title: string;
  intro?: ReactNode;
  children: ReactNode;
}) {
  return (
    <main className="flex min-h-dvh flex-col items-center px-4 py-10 sm:justify-center">
      <div className="w-full max-w-[400px]">
        <div className="mb-6 flex items-center gap-2.5">
          <Logo size={30} />
          <span className="text-lg font-semibold tracking-tight">Breeze</span>
        </div>
        <div className="rounded-xl border border-line bg-surface p-6">
          <h1 className="text-xl font-semibold tracking-tight">{title}</h1>
          {intro !== undefined && <div className="mt-1 text-sm text-muted">{intro}</div>}
          <div className="mt-5">{children}</div>
        </div>
      </div>
    </main>
  );
}
