"use strict";
/* The page: what is asked, what becomes of it, and the chain of what was made. The queue itself is the server's. */
import {Compare} from "/page/compare.js";
import {Edits, ofFrame, renderSteps} from "/page/edits.js";
import {Region, Trim, address} from "/page/region.js";
import {ask, content, events, upload} from "/page/work.js";

const BUSY = 500, CALM = 3000; // milliseconds between two looks at the jobs
const by = id => document.getElementById(id);
const make = (name, values = {}) => Object.assign(document.createElement(name), values);
const fields = ["prompt", "split", "model", "n", "speed", "steps", "seed", "guidance", "negative"].map(by);
const jobs = new Map(), nodes = new Map(), seen = new Map();
const asks = new Map(); // what was asked, by job; a browser keeps no large mask for long
const fresh = new Set(); // ids of jobs that were made since the list of jobs was asked for
let facts = null, base = null, selected = null, pending = 0, timer = 0, drawn = "";

const job = choice => choice && jobs.get(choice.id);
const add = one => { jobs.set(one.id, one); fresh.add(one.id); };
const isUpload = one => !one.prompt;
const isOver = one => one.status === "completed" || one.status === "failed";
const isKeyFrame = one => {
  return one.frames === 1 && (kept(one.id)?.frame !== undefined || jobs.get(one.remixed_from_video_id)?.frames > 1);
};
const percent = share => (100 * share).toFixed(1) + " %";
const kept = id => asks.get(id) || JSON.parse(sessionStorage.getItem("ask:" + id) || "null");
const tell = text => { by("news").textContent = text; };
const fail = error => {
  by("fault").hidden = !error;
  if (!error) return;
  by("fault").textContent = error instanceof TypeError ? "The server does not answer; try again." : error.message;
  if (error.code === "unknown_words") {
    const said = error.message.replace(/, choose a larger model, or add .*$/, ", or choose a larger model.");
    by("fault").textContent = said + " ";
    const anyway = make("button", {type: "button", textContent: "Edit anyway"});
    anyway.addEventListener("click", () => error.again());
    by("fault").append(anyway);
  }
  by("fault").scrollIntoView({block: "nearest"});
};
const guarded = action => async (...given) => {
  fail(null);
  pending += 1;
  document.body.setAttribute("aria-busy", "true");
  try { return await action(...given); } catch (error) { fail(error); } finally {
    pending -= 1;
    if (!pending) document.body.removeAttribute("aria-busy");
  }
};

const viewer = new Compare(by("viewer"), text => fail(new Error(text)));
const parts = (...ids) => Object.fromEntries(ids.map(id => [id, by(id)]));
const sides = [..."xywh"].map(side => by("box-" + side));
const choices = [...document.querySelectorAll("[name=where]")];
const region = new Region(
  viewer.frame,
  {...parts("boxes", "paints", "files", "how", "wipe", "brush", "moving"), file: by("mask-file"), box: sides, choices},
  () => (viewer.source ? viewer.frameNumber : 0), () => { edits.show(); remember(); },
);
viewer.moved = () => region.draw();
const fieldsOfEdits = {...parts("prompt", "split", "of"), list: by("edits"), row: by("of-row")};
const edits = new Edits(fieldsOfEdits, region, () => { remember(); if (facts) render(); });
const trim = new Trim(
  {...parts("strip", "first", "last", "before", "after", "span"), box: by("trim")},
  frame => look(base, frame), () => remember(),
);

/* --- what is asked */

const settings = () => {
  const prompt = by("prompt").value.trim() || by("prompt").placeholder;
  const said = {prompt, model: by("model").value, seed: Number(by("seed").value) || 0};
  if (by("speed").value !== "exact") said.speed = by("speed").value;
  for (const name of ["steps", "guidance"]) if (by(name).value !== "") said[name] = Number(by(name).value);
  if (by("negative").value.trim()) said.negative_prompt = by("negative").value.trim();
  return said;
};
/* `frame` is that of a key frame, else undefined; `whole` is what is asked of the clip. */
const send = async (whole, frame) => {
  const {frames, ...alone} = whole;
  try {
    const asked = frame === undefined ? whole : {...ofFrame(alone, frame), n: 1, video: {...whole.video, frame}};
    const made = await ask("POST", "/v1/videos/edits", asked);
    asks.set(made.id, {whole, frame});
    try {
      sessionStorage.setItem("ask:" + made.id, JSON.stringify({whole, frame}));
    } catch { /* a mask larger than the browser keeps */ }
    add(made);
    select({id: made.id, index: 0});
    by("viewer").scrollIntoView({block: "nearest"});
    tell("The edit is in the queue.");
  } catch (error) {
    error.again = guarded(() => send({...whole, anyway: true}, frame));
    throw error;
  }
};
const edit = guarded(async keyFrame => {
  const source = job(base);
  if (!source) throw new Error("Choose a video first: drop one, or try the sample clip.");
  await edits.look();
  const whole = {...settings(), ...await edits.asked(source.frames, source.fps), video: base, n: Number(by("n").value)};
  if (!by("shown").hidden) whole.references = await Promise.all([...by("references").files].map(address));
  if (trim.span) whole.frames = trim.span;
  await send(whole, keyFrame && source.frames > 1 ? trim.start : undefined);
});
const accept = guarded(async () => {
  const one = job(selected), {prompt, model, settings} = one;
  const asked = kept(one.id)?.whole || {...settings, prompt, model, video: {id: one.remixed_from_video_id}};
  await send({...asked, seed: one.seed});
});
const reseed = guarded(async () => {
  const one = job(selected), asked = kept(one.id);
  by("seed").value = one.seed + (one.num_outputs || 1);
  if (asked) await send({...asked.whole, seed: Number(by("seed").value)}, asked.frame);
  else await edit(isKeyFrame(one));
});
const take = guarded(async file => {
  if (!file) return;
  const megabytes = Math.ceil(file.size / 2 ** 20), most = facts.most.megabytes;
  if (megabytes > most) throw new Error(`The file has ${megabytes} MB, of ${most} that may be; make it smaller.`);
  by("upload").hidden = false;
  try {
    const made = await upload(file, share => {
      by("upload").value = share;
      by("base").textContent = share < 1 ? "Sending the video." : "The server looks at the video.";
    });
    add(made);
    base = {id: made.id, index: 0};
    select(base);
    tell("The video is here. Say what to change.");
  } finally {
    by("upload").hidden = true;
    by("file").value = "";
    render();
  }
});
const record = guarded(async () => {
  if (record.running) { record.running.stop(); return; }
  by("camera").disabled = true; // one who asks twice meanwhile would begin two recordings
  const stream = await navigator.mediaDevices.getUserMedia({video: true, audio: true}).catch(() => {
    throw new Error("The browser gives no camera; allow it, or choose a file.");
  }).finally(() => { by("camera").disabled = false; });
  const parts = [], recorder = new MediaRecorder(stream);
  recorder.ondataavailable = event => parts.push(event.data);
  recorder.onstop = () => {
    record.running = null;
    by("camera").textContent = "Camera";
    stream.getTracks().forEach(track => track.stop());
    take(new Blob(parts));
  };
  recorder.start();
  record.running = recorder;
  by("camera").textContent = "Stop recording";
});

/* --- what is looked at */

const shown = (one, index) => ({src: content(one.id, "video", index), fallback: content(one.id, "preview", index)});
const sourceOf = one => ({src: content(one.id, "source"), fallback: content(one.id, "source-preview")});
const look = (choice, at = 0) => {
  const one = job(choice);
  if (!one) { viewer.clear(); return; }
  const [width, height] = one.size.split("x").map(Number);
  const picture = {width, height, fps: one.fps, still: one.frames === 1, at};
  const done = one.status === "completed";
  const alone = isUpload(one) || !done || region.where !== "all" && choice.id === base?.id;
  const source = alone && done ? shown(one, choice.index) : sourceOf(one);
  viewer.show({source, result: alone ? null : shown(one, choice.index), ...picture});
  if (alone && at) viewer.seek((at + 0.5) / viewer.fps);
  region.open(choice.id === base?.id && alone);
};
const select = choice => {
  selected = choice;
  if (job(choice) && isUpload(job(choice))) base = choice;
  drawn = "";
  render();
  remember();
};
const remember = () => {
  const query = new URLSearchParams();
  for (const field of fields) if (field.value && field.value !== field.dataset.plain) query.set(field.id, field.value);
  const boxes = edits.boxes, {where, box} = edits.kept[0];
  if (where === "box" && box[2]) query.set("box", box.join(","));
  if (boxes) query.set("regions", boxes);
  if (trim.span) query.set("frames", trim.span);
  const place = selected ? `#${selected.id}/${selected.index}` : "";
  history.replaceState(null, "", (query.size ? "?" + query : location.pathname) + place);
};
const recall = () => {
  const query = new URLSearchParams(location.search);
  for (const field of fields) if (query.has(field.id)) field.value = query.get(field.id);
  const box = (query.get("box") || "").split(","), span = /^(\d+):(\d+)$/.exec(query.get("frames") || "");
  const [id, index] = location.hash.slice(1).split("/");
  if (jobs.has(id)) selected = {id, index: Number(index) || 0};
  const newest = [...jobs.values()].find(isUpload);
  base = rootOf(selected) || (newest ? {id: newest.id, index: 0} : null);
  selected ||= base;
  drawn = "";
  render();
  if (box.length === 4) region.put({where: "box", box});
  if (query.has("regions")) edits.boxes = query.get("regions");
  edits.look();
  if (span && job(base)) trim.choose(Math.min(span[1], job(base).frames - 1), Math.min(span[2], job(base).frames));
  look(selected);
};
const rootOf = choice => {
  const one = job(choice);
  if (!one || isUpload(one)) return choice;
  const id = one.remixed_from_video_id;
  return jobs.has(id) ? {id, index: kept(one.id)?.whole.video.index || 0} : null;
};

const render = () => {
  const source = job(base), one = job(selected);
  by("base").textContent = "No video yet.";
  if (source) {
    const from = isUpload(source) ? "begins with your video" : `goes on from “${source.prompt}”`;
    const long = source.frames === 1 ? "a picture" : `${source.frames} frames, ${source.seconds} s`;
    by("base").textContent = `The next edit ${from}: ${source.size}, ${long}.`;
    const [width, height] = source.size.split("x").map(Number);
    region.size(width, height);
    trim.show(source.frames, source.fps, source.frames > 1 ? content(source.id, "strip", base.index) : "");
  }
  by("key-frame").hidden = Boolean(source && source.frames === 1);
  renderReport(one);
  renderTree();
  const mark = one ? [selected.id, selected.index, one.status, base?.id, region.where].join() : "";
  if (mark !== drawn || !one) { drawn = mark; look(selected); }
};
const left = one => {
  const first = seen.get(one.id) || {at: Date.now(), progress: one.progress};
  seen.set(one.id, first);
  const gone = one.progress - first.progress, seconds = (Date.now() - first.at) / 1000;
  const more = Math.max(1, Math.round(seconds * (100 - one.progress) / gone));
  return gone >= 5 && seconds > 1 ? `, about ${more} s left` : "";
};
const stageOf = one => {
  const before = one.queue_position;
  if (one.status !== "queued") return `${one.stage || "Begun"}: ${one.progress} %${left(one)}.`;
  if (!before) return "Waiting: next in the queue.";
  return `Waiting: ${before} ${before === 1 ? "edit is" : "edits are"} before this one.`;
};
const keptOf = output => {
  const psnr = output.kept_db >= 99 ? "99 dB or more" : `${output.kept_db} dB`;
  const share = output.kept === null ? "not measured" : `${percent(output.kept)} of the picture`;
  const how = output.kept > 0 ? `, at ${psnr}` : "";
  return `Kept untouched: ${share}${how}. Made in ${output.seconds} s with seed ${output.seed}.`;
};
const renderReport = one => {
  by("report").hidden = !one || isUpload(one);
  if (!one || isUpload(one)) return;
  const done = one.status === "completed", key = isKeyFrame(one), output = done ? one.outputs[selected.index] : null;
  by("said").textContent = `${key ? "Key frame: " : ""}“${one.prompt}”`;
  renderSteps(by("steps-made"), one, output, percent);
  by("running").hidden = isOver(one);
  if (one.status === "in_progress") by("bar").value = one.progress; else by("bar").removeAttribute("value");
  by("stage").textContent = stageOf(one);
  by("failed").hidden = one.status !== "failed";
  by("failed").textContent = one.error ? one.error.message : "";
  by("kept").textContent = output ? keptOf(output) : "";
  const notes = isOver(one) && !key ? one.notes.filter(note => !/% of .* changed$|^\d+ edits, /.test(note)) : [];
  by("notes").replaceChildren(...notes.map(note => make("li", {textContent: note})));
  by("accept").hidden = !done || !key;
  by("reseed").hidden = !isOver(one);
  by("further").hidden = !done || key;
  by("download").hidden = !done;
  by("download").href = done ? content(one.id, "video", selected.index) : "#";
  by("undo").hidden = !isOver(one) || !jobs.has(one.remixed_from_video_id);
  renderVariants(one, done && one.num_outputs > 1);
};
const renderVariants = (one, several) => {
  const place = by("variants");
  place.hidden = !several;
  if (!several || place.dataset.of !== one.id) place.replaceChildren();
  place.dataset.of = several ? one.id : "";
  if (several && !place.children.length) one.outputs.forEach((output, index) => {
    const clip = make(one.frames === 1 ? "img" : "video", {
      src: content(one.id, "video", index), muted: true, loop: true, alt: "", tabIndex: -1, ariaHidden: "true",
      autoplay: !matchMedia("(prefers-reduced-motion: reduce)").matches,
    });
    const button = make("button", {type: "button", ariaLabel: `Variant with seed ${output.seed}`});
    button.append(clip);
    button.addEventListener("click", () => select({id: one.id, index}));
    place.append(button);
  });
  [...place.children].forEach((button, index) => button.setAttribute("aria-pressed", index === selected.index));
};

/* --- the chain */

const renderTree = () => {
  by("nothing").hidden = jobs.size > 0;
  for (const [id, node] of nodes) if (!jobs.has(id)) { node.item.remove(); nodes.delete(id); }
  for (const one of [...jobs.values()].sort((a, b) => a.created_at - b.created_at)) {
    const node = nodes.get(one.id) || newNode(one), parent = nodes.get(one.remixed_from_video_id);
    const place = parent ? parent.branches : by("tree");
    if (node.item.parentElement !== place) parent ? place.append(node.item) : place.prepend(node.item);
    if (one.status === "completed" && !node.picture.src) node.picture.src = content(one.id, "thumbnail");
    node.picture.hidden = one.status !== "completed";
    node.blank.hidden = !node.picture.hidden;
    node.bar.hidden = isOver(one);
    node.bar.value = one.progress;
    const kind = one.status === "failed" ? "Failed: " : isKeyFrame(one) ? "Key frame: " : "";
    node.name.textContent = kind + (one.prompt || `Video, ${one.size}`);
    node.button.setAttribute("aria-current", selected?.id === one.id);
  }
};
const newNode = one => {
  const node = {
    item: make("li"), branches: make("ul"), button: make("button", {type: "button"}), picture: make("img", {alt: ""}),
    blank: make("div", {className: "blank"}), bar: make("progress", {max: 100}), name: make("span"),
  };
  const away = make("button", {type: "button", className: "away", textContent: "×", title: "Remove"});
  away.ariaLabel = `Remove ${one.prompt || "the video"}`;
  const box = make("div", {className: "node"});
  node.button.append(node.picture, node.blank, node.bar, node.name);
  node.button.addEventListener("click", () => select({id: one.id, index: 0}));
  away.addEventListener("click", () => remove(one.id));
  box.append(node.button, away);
  node.item.append(box, node.branches);
  nodes.set(one.id, node);
  return node;
};
const remove = guarded(async id => {
  const parent = jobs.get(id)?.remixed_from_video_id;
  await ask("DELETE", "/v1/videos/" + id).catch(error => { if (error.status !== 404) throw error; });
  jobs.delete(id);
  if (base?.id === id) base = null;
  if (selected?.id === id) select(jobs.has(parent) ? {id: parent, index: 0} : base); else render();
});

/* --- going on */

const refresh = async () => {
  clearTimeout(timer);
  try {
    fresh.clear();
    const found = (await ask("GET", "/v1/videos?limit=100")).data;
    const before = new Map(jobs);
    jobs.clear();
    for (const one of found) jobs.set(one.id, one);
    for (const id of fresh) if (!jobs.has(id) && before.has(id)) jobs.set(id, before.get(id));
    for (const one of found) {
      const was = before.get(one.id);
      if (!was || was.status === one.status) continue;
      const became = {completed: `Done: ${one.prompt}`, failed: `Failed: ${one.error?.message}`}[one.status];
      tell(became || `Begun: ${one.prompt}`);
    }
    if (selected && !jobs.has(selected.id)) selected = base && jobs.has(base.id) ? base : null;
    if (base && !jobs.has(base.id)) base = null;
    const running = found.find(one => one.status === "in_progress");
    document.title = running ? `${running.progress} % – OpenSAMA` : "OpenSAMA";
    if (facts) render();
  } catch (error) {
    if (error.status === 401) return;
    if (error.status !== 429) fail(error); // which only wants a pause
  }
  timer = setTimeout(refresh, [...jobs.values()].every(isOver) ? CALM : BUSY);
};
events.away = () => {
  by("banner").textContent = "The server does not answer. This page asks until it does, and then goes on; nothing "
    + "that was in the queue is lost.";
  by("banner").hidden = false;
};
events.back = () => { by("banner").hidden = true; tell("The server is back."); };
events.stranger = () => { by("login").hidden = false; by("work").hidden = true; };

const option = value => make("option", {value, textContent: value});
const begin = async () => {
  try { facts = await ask("GET", "/page/facts"); } catch (error) { if (error.status !== 401) throw error; return; }
  by("login").hidden = true;
  by("work").hidden = false;
  by("leave").hidden = !facts.keys;
  by("camera").hidden = !navigator.mediaDevices?.getUserMedia || typeof MediaRecorder === "undefined";
  by("limit").textContent = `or choose a file: up to ${facts.most.megabytes} MB and ${facts.most.seconds} s`;
  by("kept-for").textContent = facts.most.hours;
  by("model").replaceChildren(...facts.models.map(model => option(model.name)));
  by("n").replaceChildren(...[...Array(facts.most.outputs).keys()].map(number => option(number + 1)));
  by("steps").max = facts.most.steps;
  by("kind").replaceChildren(...Object.keys(facts.examples).map(kind => option(kind)));
  for (const field of fields) field.dataset.plain = field.value;
  const suit = () => {
    const model = facts.models.find(one => one.name === by("model").value);
    by("steps").placeholder = model?.steps ?? "";
    by("shown").hidden = !model?.references;
  };
  const offer = () => by("examples").replaceChildren(...facts.examples[by("kind").value].map(text => {
    const chip = make("button", {type: "button", textContent: text});
    chip.addEventListener("click", () => { by("prompt").value = text; remember(); edits.look(); });
    return chip;
  }));
  by("model").onchange = suit;
  by("kind").onchange = offer;
  await refresh();
  recall();
  suit();
  offer();
};

by("login").addEventListener("submit", async event => {
  event.preventDefault();
  try {
    await ask("POST", "/page/session", by("secret").value);
    by("no-key").textContent = by("secret").value = "";
    await begin();
  } catch (error) { by("no-key").textContent = error.message; }
});
by("leave").addEventListener("click", guarded(async () => {
  await ask("DELETE", "/page/session");
  location.reload();
}));
by("ask").addEventListener("submit", event => { event.preventDefault(); edit(true); });
by("whole").addEventListener("click", () => edit(false));
by("accept").addEventListener("click", accept);
by("reseed").addEventListener("click", reseed);
by("cancel").addEventListener("click", () => remove(selected.id));
by("further").addEventListener("click", () => {
  base = selected;
  by("prompt").value = drawn = "";
  by("prompt").focus();
  render();
  tell("The next edit goes on from this result.");
});
by("undo").addEventListener("click", () => { base = rootOf(selected); select(base); });
by("dice").addEventListener("click", () => { by("seed").value = Math.floor(Math.random() * 1e6); remember(); });
by("link").addEventListener("click", async () => {
  const address = location.href.split("#")[0];
  try {
    await navigator.clipboard.writeText(address);
    tell("The link is copied.");
    by("link").textContent = "Copied";
  } catch { prompt("The link with these settings:", address); }
  setTimeout(() => { by("link").textContent = "Copy a link with these settings"; }, 2000);
});
by("sample").addEventListener("click", guarded(async () => take(await (await fetch("/page/sample.mp4")).blob())));
by("camera").addEventListener("click", record);
viewer.empty.addEventListener("click", () => by("file").click());
by("file").addEventListener("change", () => take(by("file").files[0]));
by("ask").addEventListener("input", remember);
choices.forEach(choice => choice.addEventListener("change", () => {
  region.choose(choice.value);
  edits.show();
  if (base && choice.value !== "all") selected = base;
  render();
}));
for (const name of ["dragover", "dragleave", "drop"]) addEventListener(name, event => {
  event.preventDefault();
  by("drop").classList.toggle("over", name === "dragover");
  if (name === "drop") take(event.dataTransfer.files[0]);
});
begin();
