// What can be done with the devices chosen, and to how many.
import { useQueryClient } from "@tanstack/react-query";
import { Tag as TagIcon, Trash2, X } from "lucide-react";
import { useRef, useState } from "react";
import type { Selection } from "@/components/data-table/selection";
import { Button } from "@/components/ui/button";
import { runBulk, type BulkProgress } from "@/features/devices/bulk";
import {
  BulkResult,
  DecommissionDialog,
  TagDialog,
} from "@/features/devices/components/bulk-dialogs";
import { allDevices, type DeviceQuery } from "@/features/devices/queries";
import { decommissionDevice, patchDevice, withFreshTag } from "@/lib/api/device-actions";
import type { DeviceSummary } from "@/lib/api/types";
import { cn } from "@/lib/cn";
import { count, plural } from "@/lib/format/numbers";

interface BulkBarProps {
  selection: Selection;
  rows: DeviceSummary[];
  total: number;
  query: DeviceQuery;
  /** A peek takes the right side. */
  besidePeek: boolean;
}

export interface TagChange {
  add: string[];
  remove: string[];
}

export function changedTags(tags: readonly string[], change: TagChange): string[] {
  return [...new Set([...tags.filter((tag) => !change.remove.includes(tag)), ...change.add])];
}

export function BulkBar({ selection, rows, total, query, besidePeek }: BulkBarProps) {
  const client = useQueryClient();
  const [dialog, setDialog] = useState<"tags" | "decommission" | null>(null);
  const [targets, setTargets] = useState<DeviceSummary[]>([]);
  const [progress, setProgress] = useState<BulkProgress | null>(null);
  const [gathering, setGathering] = useState<string | null>(null);
  const abort = useRef<AbortController | null>(null);
  const chosen = selection.all ? total : selection.ids.size;

  const open = async (which: "tags" | "decommission") => {
    if (selection.all) {
      abort.current = new AbortController();
      setGathering("Listing…");
      try {
        const all = await allDevices(
          query,
          (done, of) => setGathering(`Listing ${count(done)} of ${count(of)}…`),
          abort.current.signal,
        );
        setTargets(all);
        setDialog(which);
      } finally {
        setGathering(null);
      }
    } else {
      setTargets(rows.filter((row) => selection.ids.has(row.id)));
      setDialog(which);
    }
  };
  const run = async (work: (device: DeviceSummary) => Promise<void>) => {
    setDialog(null);
    abort.current = new AbortController();
    setProgress({ done: 0, total: targets.length, failed: [] });
    const result = await runBulk(targets, work, setProgress, abort.current.signal);
    if (result.failed.length === 0) selection.clear();
    void client.invalidateQueries({ queryKey: ["devices"] });
  };
  const tag = (change: TagChange) =>
    void run((device) =>
      withFreshTag(device.id, ({ data, etag }) =>
        patchDevice(device.id, etag, { tags: changedTags(data.tags, change) }),
      ),
    );
  const decommission = () =>
    void run((device) =>
      withFreshTag(device.id, ({ etag }) => decommissionDevice(device.id, etag)),
    );

  return (
    <>
      {chosen > 0 && (
        <div
          role="region"
          aria-label="Selected devices"
          className={cn(
            "absolute inset-x-3 bottom-3 z-20 mx-auto flex w-fit max-w-[calc(100%-24px)] animate-rise flex-wrap items-center gap-2 rounded-xl border border-line bg-surface px-3 py-2 text-sm shadow-pop",
            besidePeek && "lg:right-[352px]",
          )}
        >
          <span className="font-medium tabular" role="status">
            {plural(chosen, "device")} selected
          </span>
          {!selection.all && selection.ids.size < total && (
            <button
              type="button"
              className="text-accent-ink hover:underline"
              onClick={selection.selectAll}
            >
              Select all {count(total)} that match
            </button>
          )}
          <span className="mx-1 h-5 w-px bg-line max-sm:hidden" aria-hidden />
          {gathering === null ? (
            <>
              <Button size="sm" onClick={() => void open("tags")}>
                <TagIcon size={13} aria-hidden /> Tags
              </Button>
              <Button size="sm" variant="dangerGhost" onClick={() => void open("decommission")}>
                <Trash2 size={13} aria-hidden /> Decommission
              </Button>
            </>
          ) : (
            <span className="text-muted">{gathering}</span>
          )}
          <Button
            size="sm"
            variant="ghost"
            aria-label="Clear the selection"
            onClick={selection.clear}
          >
            <X size={14} aria-hidden />
          </Button>
        </div>
      )}
      {dialog === "tags" && (
        <TagDialog devices={targets} onClose={() => setDialog(null)} onApply={tag} />
      )}
      {dialog === "decommission" && (
        <DecommissionDialog
          devices={targets}
          onClose={() => setDialog(null)}
          onConfirm={decommission}
        />
      )}
      {progress !== null && (
        <BulkResult
          progress={progress}
          onStop={() => abort.current?.abort()}
          onClose={() => setProgress(null)}
        />
      )}
    </>
  );
}
