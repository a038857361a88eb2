// Names for what the API sends, taken from the generated document by path, so that a renamed
// schema changes nothing here and a changed shape fails the type check.
import type { paths } from "@/lib/api/schema";

type JsonOf<R> = R extends { content: { "application/json": infer B } } ? B : never;
type Responses<O> = O extends { responses: infer R } ? R : never;
type Success<R> = { [K in keyof R]: K extends 200 | 201 ? JsonOf<R[K]> : never }[keyof R];
type Body<O> = O extends { requestBody: { content: { "application/json": infer B } } } ? B : never;

type Get<P extends keyof paths> = Success<Responses<paths[P]["get"]>>;
type PostBody<P extends keyof paths> = Body<paths[P]["post"]>;
type PostResult<P extends keyof paths> = Success<Responses<paths[P]["post"]>>;

export type Instance = Get<"/api/v1/instance">;
export type SetupRequest = PostBody<"/api/v1/setup">;
export type Session = Get<"/api/v1/auth/session">;

export type DevicePage = Get<"/api/v1/devices">;
export type DeviceSummary = DevicePage["data"][number];
export type Facets = DevicePage["facets"];
export type DeviceField = Get<"/api/v1/device-fields">["data"][number];
export type Device = Get<"/api/v1/devices/{id}">;
export type DevicePatch = Body<paths["/api/v1/devices/{id}"]["patch"]>;
export type DeviceStatus = DeviceSummary["status"];
export type DeviceHealth = NonNullable<DeviceSummary["health"]>;
export type Connection = NonNullable<Device["connection"]>;
export type Hardware = Get<"/api/v1/devices/{id}/hardware">;
export type Network = Get<"/api/v1/devices/{id}/network">;
export type SoftwarePage = Get<"/api/v1/devices/{id}/software">;
export type Software = SoftwarePage["data"][number];
export type Metrics = Get<"/api/v1/devices/{id}/metrics">;
export type MetricSeries = Metrics["series"][number];

export type InventoryHistory = Get<"/api/v1/devices/{id}/inventory/history">;
export type InventoryVersionInfo = InventoryHistory["data"][number];
export type InventoryChanges = Get<"/api/v1/devices/{id}/inventory/history/{version}/changes">;
export type InventoryChange = InventoryChanges["changes"][number];

export type Overview = Get<"/api/v1/overview">;
export type EnrollmentKey = Get<"/api/v1/enrollment-keys">["data"][number];
export type CreateEnrollmentKey = PostBody<"/api/v1/enrollment-keys">;
export type CreatedEnrollmentKey = PostResult<"/api/v1/enrollment-keys">;
export type PendingDevice = Get<"/api/v1/pending-devices">["data"][number];
export type Site = Get<"/api/v1/orgs/current/sites">["data"][number];
export type AuditPage = Get<"/api/v1/audit/logs">;
export type AuditEntry = AuditPage["data"][number];
export type AuditSummary = Get<"/api/v1/audit/summary">;
export type SystemStatus = Get<"/api/v1/status">;
export type RoleInfo = SystemStatus["roles"][number];
