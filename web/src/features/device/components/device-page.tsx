// One device: header and tabs. The tab lives in the URL.
import { Link, useParams, useSearch } from "@tanstack/react-router";
import { useEffect, useRef, type ReactNode } from "react";
import { Monitor } from "lucide-react";
import { buttonClass } from "@/components/ui/button";
import { Page, Skeleton } from "@/components/ui/panel";
import { EmptyState, ProblemNote } from "@/components/ui/problem";
import { ChangesTab } from "@/features/device/components/changes-tab";
import { ConnectionTab } from "@/features/device/components/connection-tab";
import { DeviceHeader } from "@/features/device/components/device-header";
import { EventsTab } from "@/features/device/components/events-tab";
import { HardwareTab } from "@/features/device/components/hardware-tab";
import { MetricsTab } from "@/features/device/components/metrics-tab";
import { NetworkTab } from "@/features/device/components/network-tab";
import { OverviewTab } from "@/features/device/components/overview-tab";
import { SoftwareTab } from "@/features/device/components/software-tab";
import { useDevice } from "@/features/device/queries";
import { Problem } from "@/lib/api/problem";
import type { Device } from "@/lib/api/types";
import { cn } from "@/lib/cn";
import { DEVICE_TABS, type DeviceSearch, type DeviceTab } from "@/lib/url";

const LABEL: Record<DeviceTab, string> = {
  overview: "Overview",
  metrics: "Metrics",
  hardware: "Hardware",
  software: "Software",
  network: "Network",
  connection: "Connection",
  changes: "Changes",
  events: "Events",
};

export function DevicePage(): ReactNode {
  const { deviceId } = useParams({ from: "/app/devices/$deviceId" });
  const search = useSearch({ from: "/app/devices/$deviceId" });
  const query = useDevice(deviceId);
  const tab = search.tab ?? "overview";
  const tabs = useRef<HTMLElement>(null);
  // On a phone the tabs scroll: the one shown is brought into sight.
  useEffect(() => {
    tabs.current
      ?.querySelector("[aria-current]")
      ?.scrollIntoView({ block: "nearest", inline: "center" });
  }, [tab]);
  const gone = query.error instanceof Problem && [400, 404].includes(query.error.status);
  if (query.isError && (query.data === undefined || gone)) {
    return (
      <Page wide>
        {gone ? (
          <EmptyState
            icon={<Monitor size={20} aria-hidden />}
            title="There is no such device"
            action={
              <Link to="/devices" className={buttonClass("primary")}>
                Go to the devices
              </Link>
            }
          >
            It may have been decommissioned, or the address is mistyped.
          </EmptyState>
        ) : (
          <ProblemNote
            error={query.error}
            title="The device could not be loaded"
            onRetry={() => void query.refetch()}
          />
        )}
      </Page>
    );
  }
  return (
    <Page wide>
      {query.data === undefined ? <HeaderSkeleton /> : <DeviceHeader tagged={query.data} />}
      <nav
        ref={tabs}
        aria-label="Device"
        className="-mx-4 flex gap-1 overflow-x-auto border-b border-line px-4 sm:-mx-6 sm:px-6"
      >
        {DEVICE_TABS.map((name) => (
          <Link
            key={name}
            to="/devices/$deviceId"
            params={{ deviceId }}
            search={name === "overview" ? {} : { tab: name }}
            activeOptions={{ exact: true }}
            aria-current={tab === name ? "page" : undefined}
            className={cn(
              "-mb-px flex h-9 items-center border-b-2 px-2.5 text-sm whitespace-nowrap",
              tab === name
                ? "border-accent font-medium"
                : "border-transparent text-muted hover:text-text",
            )}
          >
            {LABEL[name]}
          </Link>
        ))}
      </nav>
      {query.data === undefined ? (
        <Skeleton className="h-40" />
      ) : (
        <Tab tab={tab} device={query.data.data} search={search} />
      )}
    </Page>
  );
}

function Tab({ tab, device, search }: { tab: DeviceTab; device: Device; search: DeviceSearch }) {
  switch (tab) {
    case "overview":
      return <OverviewTab device={device} />;
    case "metrics":
      return <MetricsTab device={device} search={search} />;
    case "hardware":
      return <HardwareTab id={device.id} />;
    case "software":
      return <SoftwareTab id={device.id} search={search} />;
    case "network":
      return <NetworkTab id={device.id} />;
    case "connection":
      return <ConnectionTab device={device} />;
    case "events":
      return <EventsTab id={device.id} search={search} />;
    case "changes":
      return <ChangesTab id={device.id} search={search} />;
  }
}

function HeaderSkeleton() {
  return (
    <div className="flex flex-col gap-2" aria-busy>
      <Skeleton className="h-4 w-48" />
      <Skeleton className="h-8 w-64" />
      <Skeleton className="h-5 w-96 max-w-full" />
    </div>
  );
}
