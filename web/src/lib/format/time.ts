// Times and durations in words. `now` is always passed in, so that a clock in the page decides.
import { NONE } from "@/lib/format/numbers";

const MINUTE = 60;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

/** A duration of seconds in words: `3 d 4 h`, `12 min`, `5 s`. */
export function duration(seconds: number | null | undefined): string {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return NONE;
  const s = Math.max(0, Math.round(seconds));
  if (s < MINUTE) return `${s} s`;
  if (s < HOUR) {
    const rest = s % MINUTE;
    return s < 10 * MINUTE && rest > 0
      ? `${Math.floor(s / MINUTE)} min ${rest} s`
      : `${Math.floor(s / MINUTE)} min`;
  }
  if (s < DAY) {
    const rest = Math.floor((s % HOUR) / MINUTE);
    return rest > 0 ? `${Math.floor(s / HOUR)} h ${rest} min` : `${Math.floor(s / HOUR)} h`;
  }
  const days = Math.floor(s / DAY);
  const hours = Math.floor((s % DAY) / HOUR);
  return hours > 0 && days < 30 ? `${days} d ${hours} h` : `${days.toLocaleString("en")} d`;
}

/** How long ago, coarse: `just now`, `5 min ago`, `2 h ago`, `3 d ago`; ahead: `in 4 h`. */
export function relative(time: string | number | null | undefined, now: number): string {
  const at = millis(time);
  if (at === null) return NONE;
  const seconds = Math.round((now - at) / 1000);
  const size = Math.abs(seconds);
  if (size < 10) return "just now";
  const words = coarse(size);
  return seconds < 0 ? `in ${words}` : `${words} ago`;
}

function coarse(seconds: number): string {
  if (seconds < MINUTE) return `${seconds} s`;
  if (seconds < HOUR) return `${Math.floor(seconds / MINUTE)} min`;
  if (seconds < DAY) return `${Math.floor(seconds / HOUR)} h`;
  if (seconds < 60 * DAY) return `${Math.floor(seconds / DAY)} d`;
  if (seconds < 730 * DAY) return `${Math.floor(seconds / (30.44 * DAY))} months`;
  return `${Math.floor(seconds / (365 * DAY))} years`;
}

export function millis(time: string | number | null | undefined): number | null {
  if (time === null || time === undefined) return null;
  const at = typeof time === "number" ? time : Date.parse(time);
  return Number.isFinite(at) ? at : null;
}

const local = new Intl.DateTimeFormat("en-GB", {
  year: "numeric",
  month: "short",
  day: "numeric",
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  timeZoneName: "short",
});

/** The exact time in the viewer's zone: `24 Nov 2026, 13:00:05 CET`. */
export function exact(time: string | number | null | undefined): string {
  const at = millis(time);
  return at === null ? NONE : local.format(at);
}

export function exactUtc(time: string | number | null | undefined): string {
  const at = millis(time);
  return at === null ? NONE : `${new Date(at).toISOString().slice(0, 19).replace("T", " ")} UTC`;
}

const day = new Intl.DateTimeFormat("en-GB", {
  weekday: "long",
  year: "numeric",
  month: "long",
  day: "numeric",
});

/** The day in the viewer's zone: `Tuesday, 24 November 2026`. */
export function dayName(time: string | number): string {
  const at = millis(time);
  if (at === null) return NONE;
  const part = Object.fromEntries(day.formatToParts(at).map(({ type, value }) => [type, value]));
  return `${part.weekday}, ${part.day} ${part.month} ${part.year}`;
}

const clock = new Intl.DateTimeFormat("en-GB", {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
});
const dayClock = new Intl.DateTimeFormat("en-GB", {
  day: "numeric",
  month: "short",
  hour: "2-digit",
  minute: "2-digit",
});

/** Below a heading with the day: how long ago within the last hours, else the time of day. */
export function ofDay(time: string | number, now: number): string {
  const at = millis(time);
  if (at === null) return NONE;
  return Math.abs(now - at) < 6 * HOUR * 1000 ? relative(at, now) : clock.format(at);
}

/** The time under the crosshair, as exact as the step between the points deserves. */
export function graphTime(at: number, stepSeconds: number): string {
  return stepSeconds < 60 ? clock.format(at) : dayClock.format(at);
}
