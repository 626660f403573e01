// Colours of numbers.

import { clamp } from "./words.js";

const VIRIDIS = ["440154", "482878", "3e4a89", "31688e", "26828e", "1f9e89", "35b779", "6ece58", "b5de2b", "fde725"];
const DIVERGING = ["053061", "2166ac", "4393c3", "92c5de", "d1e5f0", "f7f7f7", "fddbc7", "f4a582", "d6604d", "b2182b", "67001f"];

function mix(stops, share) {
  const at = clamp(share, 0, 1) * (stops.length - 1);
  const k = Math.min(stops.length - 2, Math.floor(at));
  const part = (stop, i) => parseInt(stop.slice(2 * i, 2 * i + 2), 16);
  return `rgb(${[0, 1, 2].map((i) => Math.round(part(stops[k], i) + (at - k) * (part(stops[k + 1], i) - part(stops[k], i)))).join(",")})`;
}

// Colours of some values: from 0 to the largest, or, where some are below 0, the same to both sides of it. but: places that have no
// say in the largest.
export function scaleOf(values, but = []) {
  const known = values.filter((v, k) => v !== null && !but.includes(k));
  const most = Math.max(...known.map(Math.abs), 0);
  const signed = known.some((v) => v < 0);
  const low = signed ? -most : 0;
  const share = (v) => (most === 0 ? 0 : signed ? (v / most + 1) / 2 : v / most);
  const strength = (v) => (most === 0 ? 0 : clamp(Math.abs(v) / most, 0, 1));
  return { low, high: most, paint: (v) => [mix(signed ? DIVERGING : VIRIDIS, share(v)), 0.2 + 0.6 * strength(v)] };
}
