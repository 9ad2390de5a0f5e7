// Colours that people with any colour vision can tell apart: viridis for energies, blue to orange for differences.

const VIRIDIS = [
  "440154", "481a6c", "472f7d", "414487", "39568c", "31688e", "2a788e", "23888e",
  "1f988b", "22a884", "35b779", "54c568", "7ad151", "a5db36", "d2e21b", "fde725",
].map(channels);

/** Whether the browser asks for a dark page. */
export const dark = matchMedia("(prefers-color-scheme: dark)");

/** A colour of the style sheet by its name, such as "--int8". */
export function styled(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** Colour of an energy, t from 0 to 1: the largest contrasts most with the page, in both schemes. */
export function sequential(t) {
  return between(VIRIDIS, dark.matches ? 0.1 + 0.9 * t : 0.95 * (1 - t));
}

/** Colour of a difference, t from -1 (more in float32) to 1 (more in int8). */
export function diverging(t) {
  const ends = ["--float32", "--neutral", "--int8"].map((name) => channels(styled(name).slice(1)));
  return between(ends, (t + 1) / 2);
}

function channels(hex) {
  return [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16));
}

function between(stops, t) {
  const place = Math.min(1, Math.max(0, t)) * (stops.length - 1);
  const i = Math.min(stops.length - 2, Math.floor(place));
  const mixed = stops[i].map((value, k) => Math.round(value + (place - i) * (stops[i + 1][k] - value)));
  return `rgb(${mixed.join(", ")})`;
}
