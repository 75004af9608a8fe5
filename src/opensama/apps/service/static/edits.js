"use strict";
/* Several edits in one instruction: which they are, and the region of each. */
import {ask} from "/page/work.js";

const PAUSE = 300; // milliseconds after the last key until the server is asked which edits these are

export class Edits {
  /* `parts` are the page's own fields; `region` is what is drawn for the edit that is chosen, 0 for all of them. */
  constructor(parts, region, changed) {
    Object.assign(this, {parts, region, changed, found: [], at: 0, kept: [], timer: 0, wanted: ""});
    parts.split.addEventListener("change", () => this.look());
    parts.prompt.addEventListener("input", () => this.later());
    parts.of.addEventListener("change", () => this.#choose(Number(parts.of.value)));
  }

  get several() { return this.parts.split.value !== "off" && this.found.length > 1; }

  later() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.look(), PAUSE);
  }

  /* Which edits the instruction asks for now. */
  async look() {
    clearTimeout(this.timer);
    const prompt = this.parts.prompt.value.trim(), split = this.parts.split.value !== "off";
    this.wanted = prompt;
    const found = split && prompt ? (await ask("POST", "/page/edits", prompt)).edits : [];
    if (this.wanted !== prompt) return;
    if (found.length !== this.found.length) {
      if (this.at) this.#choose(0);
      this.kept.length = Math.min(this.kept.length, found.length + 1);
    }
    this.found = found;
    this.show();
    this.changed();
  }

  /* As a request has it, for a clip of so many frames. */
  async asked(frames, fps) {
    this.kept[this.at] = this.region.keep();
    const said = await this.region.asked(this.kept[0] || {where: "all"}, frames, fps);
    if (this.parts.split.value === "off") return said;
    said.split = "rules";
    if (!this.several) return said;
    if (this.parts.split.value === "one pass") said.one_pass = true;
    const boxes = [];
    for (const number of this.found.keys()) {
      const {box, mask} = await this.region.asked(this.kept[number + 1] || {where: "all"}, frames, fps);
      if (box) boxes.push(`${number + 1}:${box}`);
      if (mask) said[`mask-${number + 1}`] = mask;
    }
    if (boxes.length) said.regions = boxes;
    return said;
  }

  /* The boxes of single edits in the page's address, and from it. */
  get boxes() {
    this.kept[this.at] = this.region.keep();
    return this.kept.map((one, number) => {
      return number && one?.where === "box" && one.box[2] ? `${number}:${one.box.join(",")}` : "";
    }).filter(Boolean).join(";");
  }

  set boxes(said) {
    for (const [, number, box] of said.matchAll(/(\d+):([\d,]+)/g)) {
      this.kept[number] = {where: "box", box: box.split(",")};
    }
    this.show();
  }

  #choose(number) {
    this.kept[this.at] = this.region.keep();
    this.at = number;
    this.region.put(this.kept[number]);
    this.show();
    this.changed();
  }

  /* The list of edits, and the choice among them. */
  show() {
    const {list, of, row} = this.parts;
    row.hidden = !this.several;
    list.hidden = this.parts.split.value === "off" || !this.found.length;
    list.replaceChildren(...this.found.map((text, place) => {
      const one = place + 1 === this.at ? this.region.keep() : this.kept[place + 1];
      const item = Object.assign(document.createElement("li"), {textContent: text || "(empty)"});
      if (one && one.where !== "all") item.append(` (in a ${one.where === "box" ? "box" : "mask"} of its own)`);
      return item;
    }));
    const option = (value, textContent) => Object.assign(document.createElement("option"), {value, textContent});
    const names = this.found.map((text, place) => option(place + 1, `${place + 1}. ${text}`));
    of.replaceChildren(option(0, "all edits"), ...names);
    of.value = this.at;
  }
}

/* What is asked, with its masks those of one frame. */
export const ofFrame = (asked, frame) => {
  const masks = Object.entries(asked).filter(([name]) => name.startsWith("mask"));
  return {...asked, ...Object.fromEntries(masks.map(([name, url]) => [name, {url, frame}]))};
};

/* A job's edits as a list: which is made now, and how much each has changed in an output. */
export const renderSteps = (place, job, output, percent) => {
  const steps = job.edits || [];
  place.hidden = !steps.length;
  place.replaceChildren(...steps.map(({instruction, status}, number) => {
    const share = output?.edits?.[number]?.changed, item = document.createElement("li");
    const now = {in_progress: "now", queued: "waits", failed: "failed"}[status] || "done";
    item.textContent = `${instruction} (${typeof share === "number" ? `changed ${percent(share)}` : now})`;
    if (status === "in_progress") item.setAttribute("aria-current", "step");
    item.className = status === "queued" ? "waits" : "";
    return item;
  }));
};
