"use strict";
const clips = [...document.querySelectorAll("video")], all = document.getElementById("all"), seen = new Set();
let playing = !matchMedia("(prefers-reduced-motion: reduce)").matches;
document.getElementById("keys").hidden = false;
const run = clip => playing && seen.has(clip) ? clip.play().catch(() => {}) : clip.pause();
const toggleAll = () => { playing = !playing; show(); clips.forEach(run); };
const show = () => { all.textContent = playing ? "Pause all" : "Play all"; };
const toggle = clip => clip.paused ? clip.play().catch(() => {}) : clip.pause();
const watch = new IntersectionObserver(entries => entries.forEach(({target, isIntersecting}) => {
  isIntersecting ? seen.add(target) : seen.delete(target);
  run(target);
}));
for (const clip of clips) {
  clip.controls = false;
  clip.tabIndex = 0;
  clip.setAttribute("role", "button");
  clip.addEventListener("click", () => toggle(clip));
  watch.observe(clip);
}
all.addEventListener("click", toggleAll);
addEventListener("keydown", event => {
  const here = document.activeElement || document.body, clip = here instanceof HTMLVideoElement ? here : null;
  if (event.ctrlKey || event.metaKey || event.altKey || here.matches("input, select")) return;
  if (event.key === " " && !(here instanceof HTMLButtonElement) || event.key === "Enter" && clip) {
    clip ? toggle(clip) : toggleAll();
  } else if (clip && (event.key === "ArrowLeft" || event.key === "ArrowRight")) {
    const step = (event.key === "ArrowRight" ? 1 : -1) / clip.dataset.fps;
    clip.pause();
    clip.currentTime = Math.min(Math.max(clip.currentTime + step, 0), clip.duration - 0.001);
  } else return;
  event.preventDefault();
});
const filtered = (form, apply) => {
  form.addEventListener("input", apply);
  form.addEventListener("reset", () => setTimeout(apply));
  form.addEventListener("submit", event => event.preventDefault());
  form.hidden = false;
  apply();
};
show();
