// CSV of everything that matches, not only of what is loaded.
import { Download } from "lucide-react";
import { useState } from "react";
import { download, toCsv } from "@/components/data-table/csv";
import { Button } from "@/components/ui/button";
import { toast } from "@/components/ui/toast";
import { DEVICE_COLUMNS } from "@/features/devices/columns";
import { allDevices, type DeviceQuery } from "@/features/devices/queries";
import { asProblem } from "@/lib/api/problem";
import { count, plural } from "@/lib/format/numbers";

export function CsvButton({ query, total }: { query: DeviceQuery; total: number }) {
  const [busy, setBusy] = useState<string | null>(null);
  const save = async () => {
    setBusy("0 %");
    try {
      const devices = await allDevices(
        query,
        (done, of) => setBusy(`${Math.round((done / Math.max(of, 1)) * 100)} %`),
        new AbortController().signal,
      );
      download(
        `devices-${new Date().toISOString().slice(0, 10)}.csv`,
        toCsv(DEVICE_COLUMNS, devices),
      );
      toast(`Saved ${plural(devices.length, "device")} as CSV.`);
    } catch (error) {
      const problem = asProblem(error);
      toast(`The CSV could not be made: ${problem.title}`);
    } finally {
      setBusy(null);
    }
  };
  return (
    <Button
      onClick={() => void save()}
      disabled={busy !== null || total === 0}
      title={`CSV of the ${count(total)} that match`}
    >
      <Download size={14} aria-hidden /> <span className="max-lg:sr-only">{busy ?? "CSV"}</span>
    </Button>
  );
}
