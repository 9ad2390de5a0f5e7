// A shower in 3D: one cube for each cell, at its place in the calorimeter; all views turn together.

import * as THREE from "./three/three.module.min.js";
import { OrbitControls } from "./three/OrbitControls.js";
import { styled } from "./colours.js";
import { PLANES, SIZE } from "./physics.js";

const CELL_MM = 5.1;
const PITCH_MM = Array.from({ length: SIZE }, (_, z) => (z < 17 ? 2.4 : 4.8) + 2.5); // tungsten plate and what follows it
const DEPTH_MM = PITCH_MM.reduce((sum, pitch) => sum + pitch, 0);
const WIDTH_MM = CELL_MM * SIZE;
const LAYER_MM = PITCH_MM.map((_, z) => PITCH_MM.slice(0, z + 1).reduce((sum, pitch) => sum + pitch, 0) - 1.25);
const START = new THREE.Vector3(-135, 100, 300);
const MOST_CELLS = 4000; // the brightest; more would only hide each other
const STEP = Math.PI / 24;

const camera = new THREE.PerspectiveCamera(38, 1, 10, 2000);
camera.position.copy(START);
camera.lookAt(0, 0, 0);
const views = [];

/** Turn all views back to where they started. */
export function resetViews() {
  camera.position.copy(START);
  turned();
}

function turned() {
  camera.lookAt(0, 0, 0);
  for (const view of views) view.render();
}

/** Forget all views, before new ones are made. */
export function closeViews() {
  for (const view of views.splice(0)) view.close();
}

// Depth z is to the right, y upwards, x towards the viewer of the first picture.
const ALONG = {
  x: (x) => (x - (SIZE - 1) / 2) * CELL_MM,
  y: (y) => (y - (SIZE - 1) / 2) * CELL_MM,
  z: (z) => LAYER_MM[z] - DEPTH_MM / 2,
};

/** A view of one shower on a canvas. */
export class View3d {
  constructor(canvas) {
    this.canvas = canvas;
    this.renderer = new THREE.WebGLRenderer({ canvas, antialias: true, alpha: true });
    this.scene = new THREE.Scene();
    this.scene.add(new THREE.AmbientLight(0xffffff, 2.1));
    const light = new THREE.DirectionalLight(0xffffff, 1.6);
    light.position.set(-0.5, 1, 0.8);
    this.scene.add(light);
    this.frame = edges(DEPTH_MM, WIDTH_MM, WIDTH_MM);
    this.electron = new THREE.ArrowHelper(new THREE.Vector3(1, 0, 0), new THREE.Vector3(-DEPTH_MM / 2 - 45, 0, 0), 42, 0, 9, 5);
    this.column = edges(1, 1, 1);
    this.column.visible = false;
    this.cells = new THREE.InstancedMesh(new THREE.BoxGeometry(), new THREE.MeshLambertMaterial(), MOST_CELLS);
    this.cells.frustumCulled = false;
    this.cells.count = 0;
    this.scene.add(this.frame, this.electron, this.column, this.cells);
    this.controls = new OrbitControls(camera, canvas);
    Object.assign(this.controls, { enablePan: false, minDistance: 120, maxDistance: 700 });
    this.controls.addEventListener("change", turned);
    canvas.addEventListener("keydown", (event) => this.pressed(event));
    this.observer = new ResizeObserver(() => this.render());
    this.observer.observe(canvas);
    views.push(this);
  }

  /** Show a shower (energy per cell) in the colours of a scale, see scales.js. */
  show(shower, scale) {
    const seen = [];
    for (let i = 0; i < shower.length; i++) if (scale.at(shower[i]) >= 0) seen.push(i);
    if (seen.length > MOST_CELLS) {
      seen.sort((a, b) => Math.abs(shower[b]) - Math.abs(shower[a])).length = MOST_CELLS;
    }
    const matrix = new THREE.Matrix4();
    const colour = new THREE.Color();
    seen.forEach((cell, k) => {
      const t = scale.at(shower[cell]);
      const size = 0.2 + 0.8 * t ** 1.3; // small cubes at the rim let the core be seen
      const [x, y, z] = [Math.floor(cell / SIZE ** 2), Math.floor(cell / SIZE) % SIZE, cell % SIZE];
      matrix.makeScale(0.92 * PITCH_MM[z] * size, 0.95 * CELL_MM * size, 0.95 * CELL_MM * size);
      matrix.setPosition(ALONG.z(z), ALONG.y(y), ALONG.x(x));
      this.cells.setMatrixAt(k, matrix);
      this.cells.setColorAt(k, colour.setStyle(scale.colour(t, shower[cell])));
    });
    this.cells.count = seen.length;
    this.cells.instanceMatrix.needsUpdate = true;
    if (this.cells.instanceColor) this.cells.instanceColor.needsUpdate = true;
    this.render();
  }

  /** Outline the column of cells behind one cell of a map; null for none. */
  point(plane, cursor) {
    this.column.visible = cursor !== null;
    if (cursor) {
      const size = { x: WIDTH_MM, y: WIDTH_MM, z: DEPTH_MM };
      const place = { x: 0, y: 0, z: 0 };
      PLANES[plane].forEach((axis, i) => {
        size[axis] = axis === "z" ? PITCH_MM[cursor[i]] : CELL_MM;
        place[axis] = ALONG[axis](cursor[i]);
      });
      this.column.scale.set(size.z, size.y, size.x);
      this.column.position.set(place.z, place.y, place.x);
    }
    this.render();
  }

  render() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (!width || !height) return;
    this.renderer.setPixelRatio(Math.min(2, devicePixelRatio));
    this.renderer.setSize(width, height, false);
    camera.aspect = width / height;
    camera.updateProjectionMatrix();
    this.frame.material.color.set(styled("--line"));
    this.column.material.color.set(styled("--ink"));
    this.electron.setColor(styled("--muted"));
    this.renderer.render(this.scene, camera);
    this.canvas.dataset.angle = Math.atan2(camera.position.x, camera.position.z).toFixed(3);
  }

  pressed(event) {
    const turn = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] }[event.key];
    const zoom = { "+": 0.9, "=": 0.9, "-": 1 / 0.9 }[event.key];
    if (!turn && !zoom && event.key !== "0") return;
    event.preventDefault();
    if (event.key === "0") return resetViews();
    const place = new THREE.Spherical().setFromVector3(camera.position);
    if (turn) {
      place.theta += turn[0];
      place.phi += turn[1];
    } else {
      place.radius = Math.min(700, Math.max(120, place.radius * zoom));
    }
    camera.position.setFromSpherical(place.makeSafe());
    turned();
  }

  close() {
    this.observer.disconnect();
    this.controls.dispose();
    this.cells.geometry.dispose();
    this.renderer.dispose();
    this.renderer.forceContextLoss();
  }
}

function edges(width, height, depth) {
  const box = new THREE.BoxGeometry(width, height, depth);
  return new THREE.LineSegments(new THREE.EdgesGeometry(box), new THREE.LineBasicMaterial());
}
