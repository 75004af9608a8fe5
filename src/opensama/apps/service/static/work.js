"use strict";
/* Requests to the service that this page came from: they go on where the server was away, and fail in one sentence. */
const PAUSE = 1000; // milliseconds until a server that does not answer is asked again

export class Refused extends Error {
  constructor(said, code, status) { super(said); Object.assign(this, {code, status}); }
}

export const events = {away: () => {}, back: () => {}, stranger: () => {}};
let away = false;
const heard = () => { if (away) { away = false; events.back(); } };
const lost = () => { if (!away) { away = true; events.away(); } };
const pause = time => new Promise(done => setTimeout(done, time));
const key = () => [...crypto.getRandomValues(new Uint8Array(16))].map(byte => byte.toString(36)).join("-");

const refusal = (status, text) => {
  let said = {};
  try { said = JSON.parse(text).error || {}; } catch { /* not of this service: a proxy's own page */ }
  if (status === 401) events.stranger();
  const otherwise = `The server answered with the status ${status}; its log says more.`;
  return new Refused(said.message || otherwise, said.code, status);
};

/* The JSON of an answer. Where nobody answers it is asked again, the same request, until somebody does. */
export const ask = async (method, path, body) => {
  const text = typeof body === "string", headers = {};
  if (body !== undefined) headers["Content-Type"] = text ? "text/plain" : "application/json";
  if (method === "POST" && path.startsWith("/v1/")) headers["Idempotency-Key"] = key();
  for (;;) {
    let answer, said;
    try {
      answer = await fetch(path, {method, headers, body: body === undefined || text ? body : JSON.stringify(body)});
      said = await answer.text();
    } catch {
      lost();
      await pause(PAUSE);
      continue;
    }
    heard();
    if (!answer.ok) throw refusal(answer.status, said);
    return JSON.parse(said);
  }
};

/* Sends a file, and tells how much of it has gone: 0 to 1. */
export const upload = async (file, progress) => {
  for (;;) {
    const form = new FormData();
    form.append("video", file, "video");
    const request = new XMLHttpRequest();
    const done = new Promise((good, bad) => {
      request.onload = () => {
        if (request.status < 300) good(JSON.parse(request.responseText));
        else bad(refusal(request.status, request.responseText));
      };
      request.onerror = () => good(null);
    });
    request.upload.onprogress = event => progress(event.loaded / (event.total || 1));
    request.open("POST", "/v1/videos/uploads");
    request.send(form);
    const made = await done;
    if (made) { heard(); return made; }
    if (await fetch("/healthz").then(() => true, () => false)) {
      throw new Refused("The upload was broken off, or the file has changed; try again.");
    }
    lost();
    await pause(PAUSE);
  }
};

/* The address of what a job shows. */
export const content = (id, variant, index = 0) => `/v1/videos/${id}/content?variant=${variant}&index=${index}`;
