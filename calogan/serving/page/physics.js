// Observables of showers; arrays in, arrays out, energies in GeV.

import { CELLS } from "./api.js";

export const SIZE = 25;
export const THRESHOLD_GEV = 1e-6; // the read-out threshold: a cell below it counts as empty
export const PLANES = { yz: ["z", "y"], xz: ["z", "x"], xy: ["x", "y"] }; // horizontal and vertical axis of a map
const STRIDES = { x: SIZE * SIZE, y: SIZE, z: 1 };

/** Shower i of a sample, without a copy. */
export function single(sample, i) {
  return sample.showers.subarray(i * CELLS, (i + 1) * CELLS);
}

/** Mean energy in each cell over a sample. */
export function mean(sample) {
  const sum = new Float64Array(CELLS);
  for (let i = 0; i < sample.showers.length; i++) sum[i % CELLS] += sample.showers[i];
  return sum.map((value) => value / sample.n);
}

/** Energy in each cell of one shower minus that of another. */
export function difference(shower, other) {
  return Float64Array.from(shower, (value, i) => value - other[i]);
}

/** Energy summed over all cells. */
export function ecal(shower) {
  return shower.reduce((sum, value) => sum + value, 0);
}

/** Number of cells at or above the read-out threshold. */
export function hits(shower) {
  return shower.reduce((sum, value) => sum + (value >= THRESHOLD_GEV), 0);
}

/** Energy along one axis, 25 numbers. */
export function profile(shower, axis) {
  const sums = new Float64Array(SIZE);
  for (let i = 0; i < CELLS; i++) sums[Math.floor(i / STRIDES[axis]) % SIZE] += shower[i];
  return sums;
}

/** Energy summed along the normal of a plane, 25 x 25 numbers: value (h, v) at h * 25 + v. */
export function projection(shower, plane) {
  const [horizontal, vertical] = PLANES[plane].map((axis) => STRIDES[axis]);
  const sums = new Float64Array(SIZE * SIZE);
  for (let i = 0; i < CELLS; i++) {
    sums[(Math.floor(i / horizontal) % SIZE) * SIZE + (Math.floor(i / vertical) % SIZE)] += shower[i];
  }
  return sums;
}

/** Energy-weighted mean layer, counted from 0; NaN for an empty shower. */
export function meanLayer(shower) {
  const layers = profile(shower, "z");
  return layers.reduce((sum, value, z) => sum + z * value, 0) / ecal(layers);
}

/** Mean and standard deviation of numbers. */
export function spread(values) {
  const centre = values.reduce((sum, value) => sum + value, 0) / values.length;
  return [centre, Math.sqrt(values.reduce((sum, value) => sum + (value - centre) ** 2, 0) / values.length)];
}

/** What Geant4 gives at an energy in GeV: the table of the file `geant4.json`, between two of its energies. */
export function geant4At(table, energy) {
  const nodes = table.energy;
  const above = Math.min(nodes.length - 1, Math.max(1, nodes.findIndex((node) => node >= energy)));
  const share = Math.log(energy / nodes[above - 1]) / Math.log(nodes[above] / nodes[above - 1]);
  const between = (low, high) =>
    Array.isArray(low) ? low.map((value, i) => between(value, high[i])) : low + share * (high - low);
  const at = (values) => between(values[above - 1], values[above]);
  const profiles = {};
  for (const axis of ["x", "y", "z"]) {
    const scaled = (name) => at(table.profiles[axis][name]).map((value) => value * energy);
    profiles[axis] = { mean: scaled("mean"), low: scaled("p16"), high: scaled("p84") };
  }
  const observables = {};
  for (const [name, values] of Object.entries(table.observables)) observables[name] = at(values);
  return { profiles, observables };
}
