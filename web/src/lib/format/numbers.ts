// Numbers with units: bytes are binary, rates carry "/s", and nothing is shown as "NaN".

export const NONE = "–";

const BINARY = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"] as const;

function missing(value: number | null | undefined): value is null | undefined {
  return value === null || value === undefined || !Number.isFinite(value);
}

function digits(value: number): number {
  const size = Math.abs(value);
  return size >= 100 || Number.isInteger(value) ? 0 : size >= 10 ? 1 : 2;
}

function plain(value: number, fraction: number): string {
  return value.toLocaleString("en", { maximumFractionDigits: fraction });
}

/** Bytes in binary units, at most three significant digits: `1.5 GiB`. */
export function bytes(value: number | null | undefined): string {
  if (missing(value)) return NONE;
  let size = Math.abs(value);
  let unit = 0;
  while (size >= 1023.5 && unit < BINARY.length - 1) {
    size /= 1024;
    unit += 1;
  }
  const shown = unit === 0 ? plain(Math.round(size), 0) : plain(size, digits(size));
  return `${value < 0 ? "−" : ""}${shown} ${BINARY[unit] ?? "B"}`;
}

export function bytesPerSecond(value: number | null | undefined): string {
  return missing(value) ? NONE : `${bytes(value)}/s`;
}

/** Gibibytes as the API sends them. */
export function gib(value: number | null | undefined): string {
  return missing(value) ? NONE : bytes(value * 1024 ** 3);
}

export function percent(value: number | null | undefined, fraction = 0): string {
  if (missing(value)) return NONE;
  return `${value.toLocaleString("en", { minimumFractionDigits: fraction, maximumFractionDigits: fraction })} %`;
}

export function count(value: number | null | undefined): string {
  return missing(value) ? NONE : plain(value, 0);
}

/** A rate of things: `12.5/s`. */
export function perSecond(value: number | null | undefined): string {
  return missing(value) ? NONE : `${plain(value, digits(value))}/s`;
}

export function plural(n: number, one: string, many = `${one}s`): string {
  return `${count(n)} ${n === 1 ? one : many}`;
}

/** Any figure by the unit that the API names. */
export function withUnit(value: number | null | undefined, unit: string): string {
  if (missing(value)) return NONE;
  switch (unit) {
    case "percent":
      return percent(value, 1);
    case "bytes":
      return bytes(value);
    case "mb":
    case "MiB":
    case "mebibytes":
      return bytes(value * 1024 ** 2);
    case "bytes_per_s":
    case "bytes/s":
    case "bytes_per_second":
      return bytesPerSecond(value);
    case "per_s":
    case "1/s":
    case "per_second":
      return perSecond(value);
    case "s":
    case "seconds":
      return `${plain(value, digits(value))} s`;
    case "ms":
    case "milliseconds":
      return `${plain(value, digits(value))} ms`;
    case "celsius":
      return `${plain(value, 1)} °C`;
    case "":
    case "count":
    case "entries":
    case "none":
      return plain(value, digits(value));
    default:
      return `${plain(value, digits(value))} ${unit.replaceAll("_", " ")}`;
  }
}
