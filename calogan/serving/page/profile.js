// The profile of showers along one axis, over the band of Geant4.

import { text } from "./scales.js";
import { SIZE } from "./physics.js";

const NS = "http://www.w3.org/2000/svg";
const MARGIN = { left: 46, right: 8, top: 8, bottom: 32 };
const DECADES = 4;

/**
 * Draw a profile into an element.
 *
 * lines: [{name, values, thin}], energies in GeV; band: {mean, low, high} of Geant4; mark: the marked cell, or null.
 */
export function drawProfile(element, { axis, lines, band, mark }) {
  const width = element.clientWidth;
  const height = element.clientHeight;
  if (!width) return;
  const logarithmic = axis !== "z";
  const top = 1.08e3 * Math.max(...band.high, ...lines.flatMap((line) => [...line.values]));
  const low = logarithmic ? top * 10 ** -DECADES : 0;
  const across = (cell) => MARGIN.left + ((cell + 0.5) / SIZE) * (width - MARGIN.left - MARGIN.right);
  const up = (gev) => {
    const mev = Math.max(low, 1e3 * gev);
    const share = logarithmic ? Math.log(mev / low) / Math.log(top / low) : mev / top;
    return height - MARGIN.bottom - share * (height - MARGIN.top - MARGIN.bottom);
  };
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
  make("title", {}, svg).textContent = `Profile along ${axis}: ${lines.map((line) => line.name).join(", ")}, and Geant4`;
  axes(svg, { axis, width, height, across, up, ticks: logarithmic ? decades(low, top) : round(top) });
  const places = (values) => [...values].map((value, cell) => `${across(cell).toFixed(1)},${up(value).toFixed(1)}`);
  make("polygon", { class: "band", points: [...places(band.high), ...places(band.low).reverse()].join(" ") }, svg);
  make("polyline", { class: "geant4", points: places(band.mean).join(" ") }, svg);
  if (mark !== null) {
    make("line", { class: "mark", x1: across(mark), x2: across(mark), y1: MARGIN.top, y2: height - MARGIN.bottom }, svg);
  }
  for (const line of lines) {
    const classes = `line ${line.name}${line.thin ? " thin" : ""}`;
    make("polyline", { class: classes, points: places(line.values).join(" ") }, svg);
  }
  element.replaceChildren(svg);
}

function axes(svg, { axis, width, height, across, up, ticks }) {
  const bottom = height - MARGIN.bottom;
  for (const mev of ticks) {
    const y = up(mev / 1e3);
    make("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: y, y2: y }, svg);
    make("text", { x: MARGIN.left - 5, y: y + 4, "text-anchor": "end" }, svg).textContent = text(mev);
  }
  for (const cell of [0, 6, 12, 18, 24]) {
    make("text", { x: across(cell), y: bottom + 14, "text-anchor": "middle" }, svg).textContent = cell;
  }
  const name = axis === "z" ? "depth z (layer)" : `${axis} (cell)`;
  make("text", { x: across(12), y: bottom + 28, "text-anchor": "middle" }, svg).textContent = name;
  const middle = (MARGIN.top + bottom) / 2;
  const turned = { x: 10, y: middle, "text-anchor": "middle", transform: `rotate(-90 10 ${middle})` };
  make("text", turned, svg).textContent = "energy (MeV)";
}

function decades(low, top) {
  const first = Math.ceil(Math.log10(low));
  return Array.from({ length: Math.floor(Math.log10(top)) - first + 1 }, (_, i) => 10 ** (first + i));
}

function round(top) {
  const size = 10 ** Math.floor(Math.log10(top));
  const step = [0.2, 0.5, 1, 2].map((factor) => factor * size).find((value) => top / value <= 5);
  return Array.from({ length: Math.floor(top / step) + 1 }, (_, i) => i * step);
}

function make(name, attributes, parent) {
  const element = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  parent?.append(element);
  return element;
}
