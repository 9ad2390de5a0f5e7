// The table of numbers: Geant4 and each precision, and the time that the answers took.

import * as physics from "./physics.js";
import { fixed, text } from "./scales.js";

const OBSERVABLES = [
  ["ECAL (MeV)", "ecal", (shower) => 1e3 * physics.ecal(shower), 4],
  ["ECAL / Ep (%)", "sampling_fraction", (shower, energy) => (100 * physics.ecal(shower)) / energy, 3],
  ["hits", "hits", physics.hits, 3],
  ["mean layer", "mean_layer", physics.meanLayer, 3],
];

/** Write the numbers of the shown shower, or mean ± standard deviation of all; a column for each precision. */
export function writeNumbers({ table, note, drawn, showers, geant4, single }) {
  const names = Object.keys(drawn.samples);
  const { observables } = physics.geant4At(geant4, drawn.energy);
  const rows = OBSERVABLES.map(([title, name, of, digits]) => {
    const scale = name === "ecal" ? 10 * drawn.energy : 1; // from a sampling fraction in percent
    const [centre, width] = observables[name === "ecal" ? "sampling_fraction" : name].map((value) => value * scale);
    const cells = names.map((each, i) => {
      if (single) return text(of(showers[i], drawn.energy), digits);
      const sample = drawn.samples[each];
      const values = Array.from({ length: drawn.n }, (_, k) => of(physics.single(sample, k), drawn.energy));
      return plusMinus(...physics.spread(values));
    });
    return [title, plusMinus(centre, width), ...cells];
  });
  const times = names.map((name) => drawn.samples[name].ms);
  rows.push([`time of ${drawn.n} (ms)`, "", ...times.map((ms) => text(ms))]);
  rows.push(["time of one (ms)", "", ...times.map((ms) => text(ms / drawn.n))]);
  const body = rows.map(([title, ...cells]) => row("td", title, cells));
  table.replaceChildren(row("th", "", ["Geant4", ...names]), ...body);
  note.replaceChildren(
    paragraph(`Geant4, and the precisions when their mean is shown: mean ± standard deviation of single showers.
      Times are those of this browser, from the request to the last byte.`),
  );
  if (names.length === 2) {
    const share = changedShare(physics.difference(showers[1], showers[0]), showers[0]);
    note.prepend(paragraph(`Summed over the cells, ${names[1]} differs from ${names[0]} by ${share} of ECAL.`));
  }
}

/** Sum of the absolute differences of all cells, as a share of the energy of a shower. */
export function changedShare(difference, shower) {
  const changed = difference.reduce((sum, value) => sum + Math.abs(value), 0);
  return `${text((100 * changed) / physics.ecal(shower), 2)} %`;
}

/** A mean with its width, both to the digit that the width of two digits has. */
function plusMinus(centre, width) {
  if (!(width > 0)) return text(centre);
  const decimals = Math.max(0, 1 - Math.floor(Math.log10(width)));
  return [centre, width].map((value) => fixed(value, decimals)).join(" ±\u00a0");
}

function row(kind, title, cells) {
  const tr = document.createElement("tr");
  const head = Object.assign(document.createElement("th"), { textContent: title, scope: "row" });
  tr.append(head, ...cells.map((cell) => Object.assign(document.createElement(kind), { textContent: cell })));
  return tr;
}

function paragraph(content) {
  return Object.assign(document.createElement("span"), { textContent: `${content} ` });
}
