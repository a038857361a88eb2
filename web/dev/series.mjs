// Development fixture: metric series with daily shape, noise and a gap.
const UNITS = {
  cpu_percent: "percent",
  ram_percent: "percent",
  ram_used_mb: "mb",
  swap_used_mb: "mb",
  disk_percent: "percent",
  disk_used_mb: "mb",
  net_in_bytes_per_s: "bytes_per_s",
  net_out_bytes_per_s: "bytes_per_s",
  load1: "",
  process_count: "count",
  uptime_s: "s",
};
const noise = (t, k) =>
  Math.abs(Math.sin(t / 1e5 / k) * Math.cos(t / 3.7e5 / k) + Math.sin(t * k) * 0.3);

export function valueAt(name, t) {
  const day = 0.5 + 0.5 * Math.sin((t / 86_400_000) * 2 * Math.PI);
  const n = noise(t, name.length);
  if (name.startsWith("cpu")) return Math.min(100, 6 + 30 * day * n + (n > 1 ? 45 : 0));
  if (name === "ram_percent") return 48 + 12 * day + n * 4;
  if (name === "disk_percent") return 63 + (t % 8.64e8) / 8.64e8;
  if (name.startsWith("net")) return 2e5 * n * n * (1 + 4 * day);
  if (name === "load1") return 0.3 + n * 2 * day;
  if (name === "process_count") return Math.round(210 + 20 * n);
  if (name === "uptime_s") return (t / 1000) % 3e6;
  if (name === "swap_used_mb") return 120 + 10 * n;
  return 8000 * (0.5 + 0.2 * day + 0.05 * n);
}

export function metrics(url) {
  const q = url.searchParams;
  const to = Date.parse(q.get("to") ?? "") || Date.now();
  const from = Date.parse(q.get("from") ?? "") || to - 3_600_000;
  const span = (to - from) / 1000;
  const step =
    span <= 3 * 3600 ? 60 : span <= 3 * 86_400 ? 300 : span <= 40 * 86_400 ? 3600 : 86_400;
  const resolution = { 60: "raw", 300: "5m", 3600: "1h", 86_400: "1d" }[step];
  let names = (q.get("series") ?? "cpu_percent,ram_percent,disk_percent")
    .split(",")
    .filter(Boolean);
  const details = q.get("details");
  if (details === "cpu.") names = [0, 1, 2, 3].map((n) => `cpu.${n}.percent`);
  else if (details === "disk.") names = ["disk./.percent", "disk./home.percent"];
  else if (details === "net.") names = ["net.eth0.in_bytes_per_s", "net.eth0.out_bytes_per_s"];
  else if (details) names = [];
  const gap = [from + (to - from) * 0.55, from + (to - from) * 0.62];
  const series = names.map((name) => {
    const points = [];
    for (let t = Math.ceil(from / (step * 1000)) * step * 1000; t <= to; t += step * 1000) {
      if (t > gap[0] && t < gap[1]) continue;
      const base =
        name.includes("percent") && name.startsWith("disk.")
          ? "disk_percent"
          : name.startsWith("net.")
            ? "net_in_bytes_per_s"
            : name;
      const v = valueAt(base, t);
      points.push([t, v, v * 0.7, v * 1.25, v]);
    }
    const unit = UNITS[name] ?? (name.endsWith("percent") ? "percent" : "bytes_per_s");
    return { name, unit, points };
  });
  return {
    from: new Date(from).toISOString(),
    to: new Date(to).toISOString(),
    step_s: step,
    resolution,
    series,
    truncated: false,
    missing_regions: [],
  };
}
