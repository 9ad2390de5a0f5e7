// The page: what is asked for, what is shown, and how both follow the controls.

import { ApiError, body, draw, listModels } from "./api.js";
import { dark } from "./colours.js";
import { Map2d } from "./map.js";
import * as physics from "./physics.js";
import { drawProfile } from "./profile.js";
import { differenceScale, energyScale, energyText } from "./scales.js";
import { changedShare, writeNumbers } from "./numbers.js";
import { closeViews, View3d } from "./view3d.js";

const KEY = "calogan-key";
const MOST_SHOWERS = 100; // 6 MB in each precision
const BOTH = "both";
const $ = (id) => document.getElementById(id);

const state = { energy: "50", n: "20", seed: "1", precision: BOTH, plane: "yz", shown: 0, cursor: null };
let served = null; // the answer of /v1/models
let geant4 = null; // the table of geant4.json
let drawn = null; // {energy, n, seed, samples: {precision: sample}} of the last order that was met
let panels = [];
let asking = new AbortController();
let running = ""; // the order that is being met; Enter in a changed field asks for it twice

// Opening

async function open(key) {
  say("");
  complain("");
  try {
    [served, geant4] = await Promise.all([
      listModels(key),
      fetch(new URL("geant4.json", import.meta.url)).then((answer) => answer.json()),
    ]);
  } catch (error) {
    if (error.status === 401) forget();
    complain(error.message);
    return;
  }
  sessionStorage.setItem(KEY, key);
  $("key-form").hidden = true;
  $("key").value = "";
  $("main").hidden = $("forget").hidden = false;
  const model = served.models.find((each) => each.default);
  $("model").textContent = `${model.name}, version ${model.version} · ${served.isa}`;
  offerPrecisions();
  readAddress();
  writeControls();
  order();
}

function forget() {
  asking.abort();
  sessionStorage.removeItem(KEY);
  closePanels();
  drawn = null;
  $("main").hidden = $("forget").hidden = true;
  $("key-form").hidden = false;
  $("key").focus();
}

function offerPrecisions() {
  const names = served.models.map((each) => each.precision);
  const offers = names.map((name) => [name, name]);
  if (names.length > 1) offers.push([BOTH, `${pair().join(" beside ")}`]);
  else state.precision = names[0];
  $("precisions").replaceChildren(
    ...offers.map(([value, title]) => {
      const label = document.createElement("label");
      const radio = Object.assign(document.createElement("input"), { type: "radio", name: "precision", value });
      label.append(radio, Object.assign(document.createElement("span"), { textContent: title }));
      return label;
    }),
  );
}

/** The two precisions that are compared: the reference and the default, float32 and int8 as a rule. */
function pair() {
  const names = served.models.map((each) => each.precision);
  const candidate = served.models.find((each) => each.default).precision;
  const reference = names.includes("float32") && candidate !== "float32" ? "float32" : names.find((name) => name !== candidate);
  return [reference, candidate];
}

function precisions() {
  return state.precision === BOTH ? pair() : [state.precision];
}

// The order: controls, the address of the page, the request

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  for (const name of ["energy", "n", "seed", "precision"]) if (given.has(name)) state[name] = given.get(name);
  if (![...document.getElementsByName("precision")].some((radio) => radio.value === state.precision)) {
    state.precision = served.models.length > 1 ? BOTH : served.models[0].precision;
  }
}

function writeControls() {
  const { low, high } = served.models[0].energy_range;
  $("energy").value = state.energy;
  $("energy-slider").value = Math.log(state.energy / low) / Math.log(high / low);
  $("energy-slider").ariaValueText = `${state.energy} GeV`;
  $("n").value = state.n;
  $("n-slider").value = state.n;
  $("seed").value = state.seed;
  for (const radio of document.getElementsByName("precision")) radio.checked = radio.value === state.precision;
}

/** The first thing that is wrong with the order, or an empty text; the endpoint checks the rest. */
function mistake() {
  const number = /^\d*\.?\d+(e\d+)?$/i;
  if (!number.test(state.energy)) return "The energy is a number in GeV, such as 50.";
  if (!/^\d+$/.test(state.n) || state.n < 1) return "The number of showers is a whole number from 1 on.";
  if (state.n > MOST_SHOWERS) return `This page draws ${MOST_SHOWERS} showers at most; the API draws more.`;
  if (!/^\d+$/.test(state.seed)) return "The seed is a whole number from 0 on.";
  return "";
}

async function order() {
  const { energy, n, seed, precision } = state;
  const address = `#${new URLSearchParams({ energy, n, seed, precision })}`;
  if (address === running) return;
  asking.abort();
  running = "";
  $("showers").ariaBusy = "false";
  say("");
  complain(mistake());
  if (mistake()) return;
  asking = new AbortController();
  const { signal } = asking;
  const wanted = { energy: Number(energy), n: Number(n), seed: BigInt(seed).toString() };
  history.replaceState(null, "", address);
  running = address;
  $("curl").textContent = curl({ ...wanted, precision: precisions().at(-1) });
  say("Drawing …");
  $("showers").ariaBusy = "true";
  try {
    const samples = {};
    // One after the other: side by side, each would be timed while the other computes.
    for (const each of precisions()) {
      samples[each] = await draw(sessionStorage.getItem(KEY), { ...wanted, precision: each }, signal, (seconds) =>
        say(`The endpoint is busy; trying again in ${seconds} s.`),
      );
    }
    drawn = { ...wanted, samples };
    state.shown = Math.min(state.shown, wanted.n - 1);
    show();
    say(`${wanted.n} ${wanted.n > 1 ? "showers" : "shower"} of ${energy} GeV, seed ${wanted.seed}`);
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!(error instanceof ApiError)) throw error;
    say("");
    if (error.status === 401) forget();
    complain(error.message);
  } finally {
    if (!signal.aborted) {
      running = "";
      $("showers").ariaBusy = "false";
    }
  }
}

function curl(wanted) {
  const { href } = new URL("v1/showers", document.baseURI);
  return `curl -H "Authorization: Bearer $CALOGAN_API_KEY" \\\n  -d '${body(wanted)}' \\\n  -o showers.h5 ${href}`;
}

// Showing

/** The shown shower of a sample, or its mean. */
function chosen(sample) {
  return state.shown < 0 ? physics.mean(sample) : physics.single(sample, state.shown);
}

function show() {
  const names = Object.keys(drawn.samples);
  const showers = names.map((name) => chosen(drawn.samples[name]));
  const scale = energyScale(showers);
  const contents = names.map((name, i) => ({ name, shower: showers[i], scale, title: energyText(physics.ecal(showers[i])) }));
  if (names.length === 2) {
    const shower = physics.difference(showers[1], showers[0]);
    const title = `${changedShare(shower, showers[0])} of ECAL`;
    contents.push({ name: "difference", label: `${names[1]} − ${names[0]}`, shower, scale: differenceScale([shower]), title });
  }
  makePanels(contents);
  panels.forEach((panel, i) => {
    Object.assign(panel, contents[i]);
    panel.caption.textContent = contents[i].title;
    panel.view?.show(panel.shower, panel.scale);
    panel.section.dataset.cells = panel.view?.cells.count ?? "";
  });
  $("shown").textContent = state.shown < 0 ? `mean of ${drawn.n}` : `shower ${state.shown + 1} of ${drawn.n}`;
  $("mean").ariaPressed = String(state.shown < 0);
  $("mean").disabled = $("previous").disabled = $("next").disabled = drawn.n === 1;
  const keys = [...names.map((name) => [name, name]), ["geant4", "mean of Geant4"], ["band", "68 % of single Geant4 showers"]];
  if (state.shown >= 0 && drawn.n > 1) keys.push(["thin", `thin: means of ${drawn.n}`]);
  const key = ([name, text]) => Object.assign(document.createElement("span"), { className: `key ${name}`, textContent: text });
  $("legend").replaceChildren(...keys.map(key));
  writeNumbers({ table: $("numbers"), note: $("numbers-note"), drawn, showers, geant4, single: state.shown >= 0 });
  showMaps();
}

function showMaps() {
  const images = panels.map((panel) => physics.projection(panel.shower, state.plane));
  const energies = energyScale(images.slice(0, Object.keys(drawn.samples).length));
  panels.forEach((panel, i) => {
    panel.image = images[i];
    panel.map.show(images[i], panel.scale.signed ? differenceScale([images[i]]) : energies, state.plane);
  });
  point(state.cursor);
}

function showProfiles() {
  const names = Object.keys(drawn.samples);
  const reference = physics.geant4At(geant4, drawn.energy);
  const axes = physics.PLANES[state.plane];
  for (const axis of ["z", "x", "y"]) {
    const lines = [];
    names.forEach((name, i) => {
      const mean = state.shown < 0 || drawn.n === 1 ? null : physics.profile(physics.mean(drawn.samples[name]), axis);
      if (mean) lines.push({ name, values: mean, thin: true });
      lines.push({ name, values: physics.profile(panels[i].shower, axis) });
    });
    const mark = state.cursor && axes.includes(axis) ? state.cursor[axes.indexOf(axis)] : null;
    drawProfile($(`profile-${axis}`), { axis, lines, band: reference.profiles[axis], mark });
  }
}

/** Mark one cell of the maps, [h, v], in all views; null for none. */
function point(cursor) {
  state.cursor = cursor;
  for (const panel of panels) {
    panel.map.point(cursor);
    panel.view?.point(state.plane, cursor);
  }
  showProfiles();
  const axes = physics.PLANES[state.plane];
  const values = panels.map((panel) => cursor && `${panel.label ?? panel.name} ${energyText(panel.image[cursor[0] * 25 + cursor[1]])}`);
  $("readout").textContent = cursor ? `${axes.map((axis, i) => `${axis} ${cursor[i]}`).join(", ")}: ${values.join(" · ")}` : "";
}

function makePanels(contents) {
  const names = contents.map((content) => content.name).join();
  if (panels.map((panel) => panel.name).join() === names) return;
  closePanels();
  $("panels").dataset.count = contents.length;
  panels = contents.map(({ name, label = name }) => {
    const section = document.createElement("section");
    section.className = `panel ${name}`;
    const heading = Object.assign(document.createElement("h2"), { textContent: label });
    const caption = Object.assign(document.createElement("span"), { className: "value" });
    heading.append(" ", caption);
    const space = canvas("space", `${label} in 3D. Arrow keys turn it, plus and minus zoom, 0 turns it back.`);
    const flat = canvas("map", `${label}, map. Arrow keys move the cursor, Escape removes it.`);
    section.append(heading, space, flat);
    $("panels").append(section);
    return { name, section, caption, view: view(space), map: new Map2d(flat, point) };
  });
}

function view(space) {
  try {
    return new View3d(space);
  } catch {
    const text = "This browser has no WebGL, which the view in 3D needs. The maps show the same showers.";
    space.replaceWith(Object.assign(document.createElement("p"), { className: "note", textContent: text }));
    return null;
  }
}

function canvas(name, label) {
  const element = Object.assign(document.createElement("canvas"), { className: name, tabIndex: 0, ariaLabel: label });
  element.setAttribute("role", "img");
  return element;
}

function closePanels() {
  closeViews();
  for (const panel of panels) panel.map.close();
  panels = [];
  $("panels").replaceChildren();
}

function say(message) {
  $("status").textContent = message;
}

function complain(message) {
  $("error").textContent = message;
  $("error").hidden = !message;
}

// Controls

function listen() {
  $("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    open($("key").value.trim());
  });
  $("forget").addEventListener("click", forget);
  $("order").addEventListener("submit", (event) => {
    event.preventDefault();
    order();
  });
  $("energy-slider").addEventListener("input", () => {
    const { low, high } = served.models[0].energy_range;
    const energy = low * (high / low) ** $("energy-slider").value;
    state.energy = String(Math.min(high, Math.max(low, Number(energy.toPrecision(2)))));
    writeControls();
  });
  $("n-slider").addEventListener("input", () => {
    state.n = $("n-slider").value;
    writeControls();
  });
  $("new-seed").addEventListener("click", () => {
    state.seed = String(crypto.getRandomValues(new Uint32Array(1))[0]);
    writeControls();
    order();
  });
  $("order").addEventListener("change", (event) => {
    if (event.target.name === "precision") state.precision = event.target.value;
    else if (event.target.id in state) state[event.target.id] = event.target.value.trim();
    writeControls();
    order();
  });
  const step = (by) => () => {
    state.shown = state.shown < 0 ? 0 : (state.shown + by + drawn.n) % drawn.n;
    show();
  };
  $("previous").addEventListener("click", step(-1));
  $("next").addEventListener("click", step(1));
  $("mean").addEventListener("click", () => {
    state.shown = state.shown < 0 ? 0 : -1;
    show();
  });
  $("planes").addEventListener("change", (event) => {
    Object.assign(state, { plane: event.target.value, cursor: null });
    if (drawn) showMaps();
  });
  dark.addEventListener("change", () => drawn && show());
  new ResizeObserver(() => drawn && panels.length && showProfiles()).observe($("profiles"));
  for (const axis of ["z", "x", "y"]) {
    const figure = Object.assign(document.createElement("div"), { className: "profile", id: `profile-${axis}` });
    $("profiles").append(figure);
  }
}

listen();
const key = sessionStorage.getItem(KEY);
if (key) open(key);
else forget();
