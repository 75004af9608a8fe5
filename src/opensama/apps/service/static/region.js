"use strict";
/* A box or painted places on the source's frame, and the first and last frame to edit on a strip. */
const FILL = "rgba(79, 174, 124, .45)";

export class Region {
  /* `frame` is what the source is shown in; `parts` are the page's own fields. */
  constructor(frame, parts, changed) {
    Object.assign(this, {frame, parts, changed, where: "all", width: 0, height: 0});
    this.canvas = document.createElement("canvas");
    this.canvas.className = "draw";
    this.canvas.hidden = true;
    this.canvas.setAttribute("aria-label", "The source's frame to draw on; a box can be typed, too");
    this.painted = document.createElement("canvas");
    frame.append(this.canvas);
    this.canvas.addEventListener("pointerdown", event => this.#begin(event));
    this.canvas.addEventListener("pointermove", event => this.#move(event));
    this.canvas.addEventListener("pointerup", () => { this.last = null; this.changed(); });
    parts.wipe.addEventListener("click", () => { this.#clear(); this.draw(); this.changed(); });
    for (const field of parts.box) field.addEventListener("input", () => { this.draw(); this.changed(); });
  }

  size(width, height) {
    if (width === this.width && height === this.height) return;
    Object.assign(this, {width, height});
    this.canvas.width = this.painted.width = width;
    this.canvas.height = this.painted.height = height;
    this.parts.box.forEach((field, place) => { field.max = place % 2 ? height : width; field.value = ""; });
    this.draw();
  }

  choose(where) {
    this.where = where;
    this.parts.boxes.hidden = where !== "box";
    this.parts.paints.hidden = where !== "mask";
    this.parts.how.hidden = where === "all";
    this.parts.how.textContent = where === "box"
      ? "Drag a box on the picture, or type it in pixels."
      : "Paint on the picture where the edit may change it.";
    this.draw();
  }

  /* Whether one can draw: where the source alone is shown. */
  open(may) { this.canvas.hidden = !may || this.where === "all"; }

  /* What is to be asked: {box}, {mask} as a data address, or nothing; a sentence where it is missing. */
  asked() {
    if (this.where === "box") {
      const values = this.parts.box.map(field => field.value);
      if (values.some(value => value === "")) throw new Error("Drag a box on the picture first, or choose Everywhere.");
      return {box: values.join(",")};
    }
    if (this.where === "mask") {
      if (!this.#isPainted()) throw new Error("Paint on the picture first, or choose Everywhere.");
      return {mask: this.#mask()};
    }
    return {};
  }

  draw() {
    const pen = this.canvas.getContext("2d");
    pen.clearRect(0, 0, this.width, this.height);
    if (this.where === "mask") {
      pen.drawImage(this.painted, 0, 0);
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
      const pen = this.painted.getContext("2d");
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

  #clear() { this.painted.getContext("2d").clearRect(0, 0, this.width, this.height); }
  #isPainted() {
    return this.painted.getContext("2d").getImageData(0, 0, this.width, this.height).data.some(value => value);
  }

  #mask() {
    const whole = document.createElement("canvas");
    whole.width = this.width;
    whole.height = this.height;
    const pen = whole.getContext("2d");
    pen.fillRect(0, 0, this.width, this.height);
    pen.drawImage(this.painted, 0, 0);
    return whole.toDataURL("image/png");
  }
}

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
