// From energies to places and colours, and from numbers to text.

import { diverging, sequential } from "./colours.js";

const DECADES = 4; // colder cells stay empty: single tracks of low energy lie within four decades of the hottest
const DIFFERENCE_DECADES = 3;

/** Logarithmic scale of energies up to the largest of some arrays: {top, low, at(value), colour(t)}; at() < 0 is empty. */
export function energyScale(arrays) {
  const top = Math.max(1e-9, ...arrays.map(largest));
  return {
    top,
    low: top * 10 ** -DECADES,
    at: (value) => (value > 0 ? 1 + Math.log10(value / top) / DECADES : -1),
    colour: sequential,
  };
}

/** The same for differences of both signs: at() is the size, and colour() takes the value's sign too. */
export function differenceScale(arrays) {
  const top = Math.max(1e-9, ...arrays.map(largest));
  return {
    top,
    low: top * 10 ** -DIFFERENCE_DECADES,
    at: (value) => (value ? 1 + Math.log10(Math.abs(value) / top) / DIFFERENCE_DECADES : -1),
    colour: (t, value) => diverging((0.25 + 0.75 * t) * Math.sign(value)),
    signed: true,
  };
}

function largest(values) {
  return values.reduce((top, value) => Math.max(top, Math.abs(value)), 0);
}

/** Three significant digits, without exponents from 0.001 on; a true minus sign. */
export function text(value, digits = 3) {
  if (!Number.isFinite(value)) return "–";
  const rounded = Number(value.toPrecision(digits));
  const small = rounded !== 0 && Math.abs(rounded) < 1e-3;
  return (small ? rounded.toExponential(digits - 1) : rounded.toLocaleString("en", { maximumSignificantDigits: digits }))
    .replace("-", "−")
    .replaceAll(",", "\u202f");
}

/** A number with fixed decimals. */
export function fixed(value, decimals) {
  return value
    .toLocaleString("en", { minimumFractionDigits: decimals, maximumFractionDigits: decimals })
    .replace("-", "−")
    .replaceAll(",", "\u202f");
}

/** An energy given in GeV with the unit that fits. */
export function energyText(gev, digits = 3) {
  const size = Math.abs(gev);
  if (size >= 1) return `${text(gev, digits)} GeV`;
  if (size >= 1e-3) return `${text(gev * 1e3, digits)} MeV`;
  return `${text(gev * 1e6, digits)} keV`;
}
