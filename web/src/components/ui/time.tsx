// A time said relative to now, with the exact one on hover.
import { Tooltip } from "@/components/ui/tooltip";
import { exact, exactUtc, relative } from "@/lib/format/time";
import { useNow } from "@/lib/now";

export function RelativeTime({
  at,
  className,
}: {
  at: string | number | null | undefined;
  className?: string;
}) {
  const now = useNow();
  if (at === null || at === undefined) return <span className={className}>–</span>;
  return (
    <Tooltip
      content={
        <>
          {exact(at)}
          <br />
          {exactUtc(at)}
        </>
      }
    >
      <time
        dateTime={typeof at === "string" ? at : new Date(at).toISOString()}
        className={className}
      >
        {relative(at, now)}
      </time>
    </Tooltip>
  );
}
