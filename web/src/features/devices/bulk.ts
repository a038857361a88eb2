// Work on many devices at once, a few at a time, with progress and with the failures kept.
import { asProblem, type Problem } from "@/lib/api/problem";
import type { DeviceSummary } from "@/lib/api/types";

export const PARALLEL_MAX = 4;

export interface BulkProgress {
  done: number;
  total: number;
  failed: { device: DeviceSummary; problem: Problem }[];
}

/** Runs `work` for each device. Stops starting new ones when `signal` says so. */
export async function runBulk(
  devices: readonly DeviceSummary[],
  work: (device: DeviceSummary) => Promise<void>,
  onProgress: (progress: BulkProgress) => void,
  signal: AbortSignal,
): Promise<BulkProgress> {
  const progress: BulkProgress = { done: 0, total: devices.length, failed: [] };
  let next = 0;
  const lane = async () => {
    while (next < devices.length && !signal.aborted) {
      const device = devices[next] as DeviceSummary;
      next += 1;
      try {
        await work(device);
      } catch (error) {
        progress.failed.push({ device, problem: asProblem(error) });
      }
      progress.done += 1;
      onProgress({ ...progress, failed: [...progress.failed] });
    }
  };
  await Promise.all(Array.from({ length: Math.min(PARALLEL_MAX, devices.length) }, lane));
  return progress;
}
