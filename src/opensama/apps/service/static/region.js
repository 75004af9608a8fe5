"use strict";
/* The part of the picture that an edit may change: a box, what is painted, or a file; and the frames to edit. */
import {avi} from "/page/avi.js";

const FILL = "rgba(79, 174, 124, .45)";
const MOST = 40; // megabytes of a mask
const HOW = {
  box: "Drag a box on the picture, or type it in pixels.",
  mask: "Paint on the picture where the edit may change it.",
  file: "White may change, black stays: a picture, or a video of as many frames as the clip.",
};

/* A blob as a data address. */
export const address = blob => new Promise((good, bad) => {
  const reader = new FileReader();
  reader.onload = () => good(reader.result);
  reader.onerror = () => bad(new Error("The file cannot be read; choose it again."));
  reader.readAsDataURL(blob);
});

export class Region {
  /* `frame` is what the source is shown in; `parts` are the page's own fields; `now` gives the frame that is shown. */
  constructor(frame, parts, now, changed) {
    Object.assign(this, {frame, parts, now, changed, where: "all", width: 0, height: 0});
    this.layers = new Map(); // painted pictures, by the frame from which each holds
    this.file = null;
    this.canvas = document.createElement("canvas");
    this.canvas.className = "draw";
    this.canvas.hidden = true;
    this.canvas.setAttribute("aria-label", "The source's frame to draw on; a box can be typed, too");
    frame.append(this.canvas);
    this.canvas.addEventListener("pointerdown", event => this.#begin(event));
    this.canvas.addEventListener("pointermove", event => this.#move(event));
    this.canvas.addEventListener("pointerup", () => { this.last = null; this.changed(); });
    parts.wipe.addEventListener("click", () => { this.layers.clear(); this.draw(); this.changed(); });
    parts.moving.addEventListener("change", () => {
      const layer = this.#layer();
      this.layers = new Map(layer ? [[0, layer]] : []);
      this.draw();
    });
    parts.file.addEventListener("change", () => { this.file = parts.file.files[0] || null; this.changed(); });
    for (const field of parts.box) field.addEventListener("input", () => { this.draw(); this.changed(); });
  }

  size(width, height) {
    if (width === this.width && height === this.height) return;
    Object.assign(this, {width, height});
    this.canvas.width = width;
    this.canvas.height = height;
    this.layers.clear();
    this.parts.box.forEach((field, place) => { field.max = place % 2 ? height : width; field.value = ""; });
    this.draw();
  }

  choose(where) {
    this.where = where;
    const chosen = this.parts.choices.find(choice => choice.value === where);
    chosen.checked = true;
    this.parts.boxes.hidden = where !== "box";
    this.parts.paints.hidden = where !== "mask";
    this.parts.files.hidden = where !== "file";
    this.parts.how.hidden = where === "all";
    this.parts.how.textContent = HOW[where] || "";
    this.draw();
  }

  /* What is drawn, to be put back; without it nothing is. */
  keep() {
    const {where, layers, file} = this;
    return {where, layers, file, moving: this.parts.moving.checked, box: this.parts.box.map(field => field.value)};
  }

  put({where = "all", layers = new Map(), file = null, moving = false, box = ["", "", "", ""]} = {}) {
    Object.assign(this, {layers, file});
    this.parts.moving.checked = moving;
    this.parts.file.value = ""; // a page may not choose a file; its name is shown beside
    this.parts.box.forEach((field, place) => { field.value = box[place]; });
    this.choose(where);
    if (where === "file" && file) this.parts.how.textContent = `${file.name}. ${HOW.file}`;
  }

  /* Whether one can draw: where the source alone is shown. */
  open(may) { this.canvas.hidden = !may || !["box", "mask"].includes(this.where); }

  /* What is to be asked of a kept region, for a clip of so many frames: {box}, {mask} as a data address, or nothing; a
     sentence where it is missing. */
  async asked({where, layers, file, box}, frames, fps) {
    if (where === "box") {
      if (box.some(value => value === "")) throw new Error("Drag a box on the picture first, or choose Everywhere.");
      return {box: box.join(",")};
    }
    let mask = file;
    if (where === "mask") {
      const painted = [...layers].filter(([, layer]) => isPainted(layer)).sort(([a], [b]) => a - b);
      if (!painted.length) throw new Error("Paint on the picture first, or choose Everywhere.");
      const pictures = await Promise.all(painted.map(([, layer]) => this.#picture(layer)));
      mask = pictures[0];
      if (painted.length > 1 && frames > 1) {
        const stored = await Promise.all(pictures.map(async one => new Uint8Array(await one.arrayBuffer())));
        const at = frame => Math.max(0, painted.findLastIndex(([from]) => from <= frame));
        mask = avi([...Array(frames).keys()].map(frame => stored[at(frame)]), this.width, this.height, fps);
      }
    } else if (where !== "file") return {};
    if (!mask) throw new Error("Choose a mask's file first, or choose Everywhere.");
    if (mask.size > MOST * 2 ** 20) throw new Error(`The mask has more than ${MOST} MB; make it smaller.`);
    return {mask: await address(mask)};
  }

  draw() {
    const pen = this.canvas.getContext("2d");
    pen.clearRect(0, 0, this.width, this.height);
    if (this.where === "mask") {
      const layer = this.#layer();
      if (!layer) return;
      pen.drawImage(layer, 0, 0);
      pen.globalCompositeOperation = "source-in";
      pen.fillStyle = FILL;
      pen.fillRect(0, 0, this.width, this.height);
      pen.globalCompositeOperation = "source-over";
    } else if (this.where === "box") {
      const box = this.parts.box.map(field => Number(field.value));
      if (!box[2] || !box[3]) return;
      pen.fillStyle = "rgba(0, 0, 0, .5)";
      pen.fillRect(0, 0, this.width, this.height);
      pen.clearRect(...box);
      pen.strokeStyle = "#fff";
      pen.lineWidth = Math.max(1, this.width / 300);
      pen.strokeRect(...box);
    }
  }

  /* What is painted for the frame that is shown. */
  #layer() {
    const from = [...this.layers.keys()].sort((a, b) => a - b);
    return this.layers.get(from.findLast(frame => frame <= this.now()) ?? from[0]);
  }

  #at(event) {
    const box = this.canvas.getBoundingClientRect();
    const inside = (share, most) => Math.min(1, Math.max(0, share)) * most;
    return [
      inside((event.clientX - box.left) / box.width, this.width),
      inside((event.clientY - box.top) / box.height, this.height),
    ];
  }

  #begin(event) {
    event.stopPropagation();
    this.canvas.setPointerCapture(event.pointerId);
    const from = this.parts.moving.checked ? this.now() : 0;
    if (this.where === "mask" && !this.layers.has(from)) {
      this.layers.set(from, Object.assign(document.createElement("canvas"), {width: this.width, height: this.height}));
    }
    this.last = this.start = this.#at(event);
    this.#move(event);
  }

  #move(event) {
    if (!this.last) return;
    const [x, y] = this.#at(event), [x0, y0] = this.start;
    if (this.where === "box") {
      const box = [Math.min(x, x0), Math.min(y, y0), Math.abs(x - x0), Math.abs(y - y0)].map(Math.round);
      this.parts.box.forEach((field, place) => { field.value = place < 2 ? box[place] : Math.max(1, box[place]); });
    } else {
      const pen = this.#layer().getContext("2d");
      pen.strokeStyle = "#fff";
      pen.lineCap = pen.lineJoin = "round";
      pen.lineWidth = this.parts.brush.value / 100 * this.width;
      pen.beginPath();
      pen.moveTo(...this.last);
      pen.lineTo(x, y);
      pen.stroke();
      this.last = [x, y];
    }
    this.draw();
  }

  /* A layer on black, as a PNG. */
  #picture(layer) {
    const whole = Object.assign(document.createElement("canvas"), {width: this.width, height: this.height});
    const pen = whole.getContext("2d");
    pen.fillRect(0, 0, this.width, this.height);
    pen.drawImage(layer, 0, 0);
    return new Promise(good => whole.toBlob(good, "image/png"));
  }
}
const isPainted = layer => {
  return layer.getContext("2d").getImageData(0, 0, layer.width, layer.height).data.some(value => value);
};

export class Trim {
  /* `seek` is told the frame under a handle. */
  constructor(parts, seek, changed) {
    Object.assign(this, {parts, seek, changed, frames: 1, fps: 24});
    parts.first.addEventListener("input", () => this.#set("first"));
    parts.last.addEventListener("input", () => this.#set("last"));
  }

  show(frames, fps, picture) {
    this.parts.box.hidden = frames < 2;
    if (picture !== this.picture) {
      this.picture = picture;
      this.parts.strip.style.backgroundImage = picture ? `url("${picture}")` : "none";
      Object.assign(this, {frames, fps});
      this.parts.first.max = this.parts.last.max = frames - 1;
      this.choose(0, frames);
    }
  }

  choose(start, stop) {
    this.parts.first.value = start;
    this.parts.last.value = stop - 1;
    this.#tell();
  }

  get start() { return Number(this.parts.first.value); }
  get stop() { return Number(this.parts.last.value) + 1; }
  /* As a request has it; nothing where all of it is edited. */
  get span() {
    return this.frames > 1 && (this.start > 0 || this.stop < this.frames) ? `${this.start}:${this.stop}` : null;
  }

  #set(which) {
    const {first, last} = this.parts;
    if (this.start >= this.stop && which === "first") first.value = last.value;
    if (this.start >= this.stop && which === "last") last.value = first.value;
    this.seek(which === "first" ? this.start : this.stop - 1);
    this.#tell();
    this.changed();
  }

  #tell() {
    const share = frame => 100 * frame / this.frames + "%", seconds = frame => (frame / this.fps).toFixed(2);
    this.parts.before.style.left = "0";
    this.parts.before.style.width = share(this.start);
    this.parts.after.style.left = share(this.stop);
    this.parts.after.style.right = "0";
    const times = `${seconds(this.start)} to ${seconds(this.stop)} s`;
    this.parts.span.textContent = this.span
      ? `Frames ${this.start} to ${this.stop - 1} are edited, ${times}; the rest stays.`
      : `All ${this.frames} frames are edited; drag the ends to choose fewer.`;
  }
}
