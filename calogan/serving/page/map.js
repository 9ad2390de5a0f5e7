// A map of one shower: the energy along the line of sight, with its colour scale; a cursor that all views share.

import { styled } from "./colours.js";
import { energyText } from "./scales.js";
import { PLANES, SIZE } from "./physics.js";

const MARGIN = { left: 34, right: 58, top: 6, bottom: 30 };

/** A map on a canvas; `moved` is called with the cell under the cursor, [h, v], or null. */
export class Map2d {
  constructor(canvas, moved) {
    this.canvas = canvas;
    this.cursor = null;
    this.moved = moved;
    canvas.addEventListener("pointermove", (event) => moved(this.cell(event)));
    canvas.addEventListener("pointerdown", (event) => moved(this.cell(event)));
    canvas.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && moved(null));
    canvas.addEventListener("keydown", (event) => this.pressed(event));
    this.observer = new ResizeObserver(() => this.render());
    this.observer.observe(canvas);
  }

  show(image, scale, plane) {
    Object.assign(this, { image, scale, plane });
    this.render();
  }

  point(cursor) {
    this.cursor = cursor;
    this.render();
  }

  close() {
    this.observer.disconnect();
  }

  layout() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const room = Math.min(width - MARGIN.left - MARGIN.right, height - MARGIN.top - MARGIN.bottom);
    const pixel = Math.max(1, room / SIZE);
    return { width, height, pixel, left: MARGIN.left, top: MARGIN.top, side: pixel * SIZE };
  }

  cell(event) {
    const { pixel, left, top } = this.layout();
    const h = Math.floor((event.offsetX - left) / pixel);
    const v = SIZE - 1 - Math.floor((event.offsetY - top) / pixel);
    return h >= 0 && h < SIZE && v >= 0 && v < SIZE ? [h, v] : null;
  }

  pressed(event) {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (!step && event.key !== "Escape") return;
    event.preventDefault();
    const from = this.cursor ?? (this.plane === "xy" ? [12, 12] : [9, 12]);
    this.moved(step ? from.map((value, i) => Math.min(SIZE - 1, Math.max(0, value + step[i]))) : null);
  }

  render() {
    const { width, height, pixel, left, top, side } = this.layout();
    if (!this.image || !width) return;
    const ratio = devicePixelRatio;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    const pen = this.canvas.getContext("2d");
    pen.scale(ratio, ratio);
    pen.fillStyle = styled("--plot");
    pen.fillRect(left, top, side, side);
    for (let h = 0; h < SIZE; h++) {
      for (let v = 0; v < SIZE; v++) {
        const value = this.image[h * SIZE + v];
        const t = this.scale.at(value);
        if (t < 0) continue;
        pen.fillStyle = this.scale.colour(t, value);
        pen.fillRect(left + h * pixel, top + (SIZE - 1 - v) * pixel, pixel + 0.3, pixel + 0.3);
      }
    }
    pen.font = `11px ${getComputedStyle(this.canvas).fontFamily}`;
    this.axes(pen, { pixel, left, top, side });
    this.colourBar(pen, { left: left + side + 8, top, side });
    if (this.cursor) {
      const [h, v] = this.cursor;
      pen.strokeStyle = styled("--ink");
      pen.lineWidth = 1.5;
      pen.strokeRect(left + h * pixel, top + (SIZE - 1 - v) * pixel, pixel, pixel);
      pen.globalAlpha = 0.35;
      pen.lineWidth = 1;
      pen.strokeRect(left + h * pixel, top, pixel, side);
      pen.strokeRect(left, top + (SIZE - 1 - v) * pixel, side, pixel);
      pen.globalAlpha = 1;
    }
  }

  axes(pen, { pixel, left, top, side }) {
    const [horizontal, vertical] = PLANES[this.plane];
    pen.strokeStyle = styled("--line");
    pen.lineWidth = 1;
    pen.strokeRect(left, top, side, side);
    pen.fillStyle = styled("--muted");
    pen.textAlign = "center";
    for (const tick of [0, 6, 12, 18, 24]) {
      pen.fillText(tick, left + (tick + 0.5) * pixel, top + side + 13);
    }
    pen.fillText(label(horizontal), left + side / 2, top + side + 26);
    pen.textAlign = "right";
    for (const tick of [0, 6, 12, 18, 24]) {
      pen.fillText(tick, left - 5, top + (SIZE - tick - 0.5) * pixel + 4);
    }
    pen.save();
    pen.translate(9, top + side / 2);
    pen.rotate(-Math.PI / 2);
    pen.textAlign = "center";
    pen.fillText(label(vertical), 0, 0);
    pen.restore();
  }

  colourBar(pen, { left, top, side }) {
    const steps = 64;
    for (let i = 0; i < steps; i++) {
      const share = (i + 0.5) / steps; // from the top down
      const signed = 1 - 2 * share;
      pen.fillStyle = this.scale.signed ? this.scale.colour(Math.abs(signed), signed) : this.scale.colour(1 - share);
      pen.fillRect(left, top + (i * side) / steps, 7, side / steps + 0.5);
    }
    pen.fillStyle = styled("--muted");
    pen.textAlign = "left";
    const short = (gev) => energyText(gev, 2).split(" ");
    const write = (gev, y, sign = "") => {
      const [number, unit] = short(gev);
      pen.fillText(sign + number, left + 11, y);
      pen.fillText(unit, left + 11, y + 12);
    };
    write(this.scale.top, top + 9, this.scale.signed ? "+" : "");
    write(this.scale.signed ? -this.scale.top : this.scale.low, top + side - 12);
    if (this.scale.signed) write(this.scale.low, top + side / 2 - 2, "±");
  }
}

function label(axis) {
  return axis === "z" ? "depth z (layer)" : `${axis} (cell)`;
}
