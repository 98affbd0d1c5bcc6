import { number } from "./format";

/** The resources that steps used, as names and texts. Unknown values are left out. */
export const amounts = (used: Record<string, unknown>): [string, string][] => {
  const amount = (name: string, unit: string): string | null =>
    typeof used[name] === "number" ? `${number(used[name])} ${unit}` : null;
  const bytes = (name: string): string | null => {
    const found = used[name];
    if (typeof found !== "number") return null;
    const [unit, divisor] = found >= 1e9 ? ["GB", 1e9] : found >= 1e6 ? ["MB", 1e6] : found >= 1e3 ? ["kB", 1e3] : ["bytes", 1];
    return `${number(found / divisor)} ${unit}`;
  };
  const { rows, seconds } = used;
  const rate = typeof rows === "number" && typeof seconds === "number" && seconds > 0 ? `${number(Math.round(rows / seconds))} rows/s` : null;
  const found: [string, string | null][] = [
    ["elapsed time", amount("seconds", "s")],
    ["CPU time", amount("cpu_seconds", "s")],
    ["GPU time", amount("gpu_seconds", "s")],
    ["peak memory", amount("peak_memory_mb", "MB")],
    ["read from the artifact store", bytes("read_bytes")],
    ["written to the artifact store", bytes("written_bytes")],
    ["throughput", rate],
  ];
  return found.filter((fact): fact is [string, string] => fact[1] !== null);
};
