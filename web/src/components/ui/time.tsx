// A time said relative to now, with the exact one on hover; below a heading with its day, the time of day.
import { Tooltip } from "@/components/ui/tooltip";
import { exact, exactUtc, ofDay, relative } from "@/lib/format/time";
import { useNow } from "@/lib/now";

export function RelativeTime({
  at,
  className,
  dated,
}: {
  at: string | number | null | undefined;
  className?: string;
  /** Its day is said above: what is not of the last day is told by the clock. */
  dated?: boolean;
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
        {dated === true ? ofDay(at, now) : relative(at, now)}
      </time>
    </Tooltip>
  );
}
