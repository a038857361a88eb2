// Changing and decommissioning devices: each change names the version it was made from.
import { api, unwrap, unwrapTagged, type Tagged } from "@/lib/api/client";
import { Problem } from "@/lib/api/problem";
import type { Device, DevicePatch } from "@/lib/api/types";

export function readDevice(id: string, signal?: AbortSignal): Promise<Tagged<Device>> {
  return unwrapTagged(
    api.GET("/api/v1/devices/{id}", {
      params: { path: { id } },
      ...(signal === undefined ? {} : { signal }),
    }),
  );
}

export function patchDevice(id: string, etag: string, body: DevicePatch): Promise<Tagged<Device>> {
  return unwrapTagged(
    api.PATCH("/api/v1/devices/{id}", {
      params: { path: { id }, header: { "If-Match": etag } },
      body,
    }),
  );
}

export async function decommissionDevice(id: string, etag: string): Promise<void> {
  await unwrap(
    api.DELETE("/api/v1/devices/{id}", { params: { path: { id }, header: { "If-Match": etag } } }),
  );
}

const RETRIES_MAX = 4;
const WAIT_DEFAULT_S = 2;

/**
 * Reads a device and changes it, again from the start when somebody else was faster or the server
 * asks to wait. Only for changes that are right whatever the other one did.
 */
export async function withFreshTag(
  id: string,
  change: (current: Tagged<Device>) => Promise<unknown>,
  wait: (ms: number) => Promise<void> = (ms) => new Promise((done) => setTimeout(done, ms)),
): Promise<void> {
  for (let tries = 0; ; tries += 1) {
    try {
      await change(await readDevice(id));
      return;
    } catch (error) {
      if (!(error instanceof Problem) || tries >= RETRIES_MAX) throw error;
      if (error.status === 429) await wait((error.retryAfter ?? WAIT_DEFAULT_S) * 1000);
      else if (error.status !== 412) throw error;
    }
  }
}
