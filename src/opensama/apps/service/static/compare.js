"use strict";
/* A source and its result in step: a divider to drag, side by side, or their difference; one sound, one time. */
const ICONS = {
  play: "M4 2l10 6-10 6z", pause: "M3 2h4v12H3zM9 2h4v12H9z",
  loud: "M2 6h3l4-4v12l-4-4H2zM11 5q3 3 0 6M12 2q6 6 0 12",
  mute: "M2 6h3l4-4v12l-4-4H2zM11 6l4 4M15 6l-4 4",
};
const VIEWS = {divider: "Divider", side: "Side by side", difference: "Difference", source: "Source", result: "Result"};
const DRIFT = 0.08; // seconds that two videos may be apart
const HELP = "Space plays, arrow keys step a frame, 1 to 5 choose the view.";

const made = (name, attributes = {}, ...children) => {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
};
const icon = name => {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  path.setAttribute("d", ICONS[name]);
  if (name === "loud" || name === "mute") path.setAttribute("style", "stroke:currentColor;stroke-width:1.4");
  svg.append(path);
  return svg;
};
const clock = seconds => Math.floor(seconds / 60) + ":" + (seconds % 60).toFixed(2).padStart(5, "0");

export class Compare {
  /* `fault` hears a sentence where neither a file nor its preview can be shown. */
  constructor(root, fault) {
    Object.assign(this, {root, fault, view: "divider", sound: true, fps: 24, still: false, source: null, result: null});
    this.moved = () => {}; // hears when another frame may be shown
    this.panes = made("div", {class: "panes"});
    this.divider = made("div", {
      class: "divider", role: "slider", tabindex: "0", "aria-label": "Divider between source and result",
      "aria-valuemin": "0", "aria-valuemax": "100",
    });
    this.tags = [made("span", {class: "tag left"}, "source"), made("span", {class: "tag right"}, "result")];
    const group = {class: "frame", tabindex: "0", role: "group", "aria-label": "Video. " + HELP};
    this.frame = made("div", group, this.panes, this.divider, ...this.tags);
    this.play = made("button", {type: "button", class: "icon", "data-do": "play"});
    this.mute = made("button", {type: "button", class: "icon", "data-do": "mute"});
    this.time = made("input", {type: "range", min: "0", max: "1", step: "0.001", value: "0", "aria-label": "Time"});
    this.says = made("output");
    this.views = made("div", {class: "choice", role: "radiogroup", "aria-label": "View"});
    for (const [value, text] of Object.entries(VIEWS)) {
      this.views.append(made("label", {}, made("input", {type: "radio", name: "view", value}), text));
    }
    const first = made("strong", {}, "Drop a video here");
    const rest = made("span", {}, "or click to choose one; there is a sample clip, too");
    this.empty = made("div", {class: "empty"}, first, rest);
    this.controls = made("div", {class: "controls"}, this.play, this.mute, this.time, this.says, this.views);
    root.append(this.empty, this.frame, this.controls);
    this.#listen();
    this.clear();
  }

  clear() {
    this.panes.replaceChildren();
    this.source = this.result = null;
    this.frame.hidden = this.controls.hidden = true;
    this.empty.hidden = false;
  }

  /* source and result: {src, fallback}; `at` is a frame to show, else the first. */
  show({source, result, still, width, height, fps, at = 0}) {
    const mark = JSON.stringify([source, result, at]);
    if (mark === this.mark && this.source) return;
    this.mark = mark;
    this.still = still;
    this.fps = fps || 24;
    this.panes.replaceChildren();
    this.source = this.#pane("source", source);
    this.result = result ? this.#pane("result", result) : null;
    this.frame.style.setProperty("--w", width);
    this.frame.style.setProperty("--h", height);
    this.empty.hidden = true;
    this.frame.hidden = this.controls.hidden = false;
    this.views.hidden = !result;
    for (const part of [this.play, this.mute, this.time, this.says]) part.hidden = still;
    this.place(50);
    this.look(result ? (this.view === "source" ? "divider" : this.view) : "source", false);
    if (!still) this.seek((at + 0.5) / this.fps);
    this.#hear();
  }

  look(view, chosen = true) {
    if (chosen) this.view = view;
    this.root.dataset.view = view;
    const box = this.views.querySelector(`[value=${view}]`);
    if (box) box.checked = true;
    this.divider.hidden = view !== "divider";
    this.tags[0].hidden = !this.result || !["divider", "side", "source"].includes(view);
    this.tags[1].hidden = !this.result || !["divider", "side", "result"].includes(view);
  }

  place(percent) {
    this.at = Math.min(100, Math.max(0, percent));
    this.frame.style.setProperty("--at", this.at + "%");
    this.divider.setAttribute("aria-valuenow", Math.round(this.at));
    this.divider.setAttribute("aria-valuetext", Math.round(this.at) + " % source, the rest result");
  }

  seek(seconds) {
    const until = this.length - 0.001;
    const to = Math.max(0, Number.isFinite(until) && until > 0 ? Math.min(seconds, until) : seconds);
    for (const clip of this.clips) clip.currentTime = to;
    this.#tell();
  }

  step(frames) {
    this.clips.forEach(clip => clip.pause());
    this.seek((Math.floor(this.master.currentTime * this.fps + 0.001) + frames + 0.5) / this.fps);
  }

  toggle() {
    const master = this.master;
    if (!master) return;
    if (!master.paused) { this.clips.forEach(clip => clip.pause()); return; }
    if (master.ended || master.currentTime >= this.length - 0.5 / this.fps) this.seek(0);
    for (const clip of this.clips) clip.play().catch(() => {});
  }

  get clips() { return this.still ? [] : [this.result, this.source].filter(Boolean); }
  get master() { return this.clips[0]; }
  get length() { return this.master ? this.master.duration : NaN; }
  get frameNumber() { return this.still ? 0 : Math.floor(this.master.currentTime * this.fps + 0.001); }

  #pane(side, {src, fallback}) {
    const [name, said] = this.still
      ? ["img", {alt: side}]
      : ["video", {playsinline: "", preload: "auto", "aria-label": side}];
    const media = made(name, said);
    const other = () => {
      if (media.dataset.other || !fallback) {
        this.fault(`The browser cannot show this ${this.still ? "picture" : "video"}; download it to look at it.`);
        return;
      }
      media.dataset.other = "yes";
      media.src = fallback;
      if (!this.still) this.seek(this.time.value * 1);
    };
    media.addEventListener("error", other);
    if (!this.still) {
      media.disablePictureInPicture = true;
      media.addEventListener("loadedmetadata", () => { if (!media.videoWidth) other(); this.#tell(); });
      for (const event of ["timeupdate", "play", "pause", "ended", "seeked"]) {
        media.addEventListener(event, () => this.#tell());
      }
      media.addEventListener("play", () => this.#follow());
    }
    media.src = src;
    this.panes.append(made("div", {class: "pane " + side}, media));
    return media;
  }

  #follow() {
    const [master, slave] = this.clips;
    if (!master || master.paused) return;
    if (slave && Math.abs(slave.currentTime - master.currentTime) > DRIFT) slave.currentTime = master.currentTime;
    this.#tell();
    requestAnimationFrame(() => this.#follow());
  }

  #hear() {
    this.clips.forEach((clip, place) => { clip.muted = place > 0 || !this.sound; });
    this.mute.replaceChildren(icon(this.sound ? "loud" : "mute"));
    this.mute.setAttribute("aria-label", this.sound ? "Mute" : "Sound on");
  }

  #tell() {
    const master = this.master;
    if (!master) return;
    const over = Number.isFinite(master.duration) ? master.duration : 0;
    if (master.ended) this.clips.forEach(clip => clip.pause());
    this.time.max = over || 1;
    this.time.value = master.currentTime;
    this.time.setAttribute("aria-valuetext", clock(master.currentTime) + " of " + clock(over));
    this.moved();
    this.says.textContent = clock(master.currentTime) + " / " + clock(over) + ", frame " + this.frameNumber;
    const shown = master.paused ? "play" : "pause";
    if (this.play.dataset.icon !== shown) {
      this.play.dataset.icon = shown;
      this.play.replaceChildren(icon(shown));
      this.play.setAttribute("aria-label", shown === "play" ? "Play" : "Pause");
    }
  }

  #listen() {
    this.play.addEventListener("click", () => this.toggle());
    this.mute.addEventListener("click", () => { this.sound = !this.sound; this.#hear(); });
    this.time.addEventListener("input", () => this.seek(this.time.value * 1));
    this.views.addEventListener("change", event => this.look(event.target.value));
    const drag = event => {
      const box = this.frame.getBoundingClientRect();
      this.place(100 * (event.clientX - box.left) / box.width);
    };
    let from = null;
    this.frame.addEventListener("pointerdown", event => {
      if (event.button || event.target.closest(".draw")) return;
      from = {x: event.clientX, moved: event.target === this.divider};
      if (from.moved) this.divider.focus();
      this.frame.setPointerCapture(event.pointerId);
    });
    this.frame.addEventListener("pointermove", event => {
      if (!from) return;
      from.moved ||= Math.abs(event.clientX - from.x) > 4;
      if (from.moved && this.root.dataset.view === "divider") drag(event);
    });
    this.frame.addEventListener("pointerup", () => {
      if (from && !from.moved) this.toggle();
      from = null;
    });
    this.frame.addEventListener("pointercancel", () => { from = null; });
    this.frame.addEventListener("keydown", event => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const way = {ArrowLeft: -1, ArrowRight: 1}[event.key], view = Object.keys(VIEWS)[event.key - 1];
      const end = {Home: 0, End: 100}[event.key], onDivider = event.target === this.divider;
      if (onDivider && way) this.place(this.at + way * (event.shiftKey ? 10 : 2));
      else if (onDivider && end !== undefined) this.place(end);
      else if (event.key === " ") this.toggle();
      else if (way && !this.still) this.step(way);
      else if (view && this.result) this.look(view);
      else return;
      event.preventDefault();
    });
  }
}
