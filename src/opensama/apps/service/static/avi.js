"use strict";
/* A film of PNGs as an AVI, which every reader of FFmpeg's takes: pictures (Uint8Array), so many a second. */
const bytes = text => new TextEncoder().encode(text);
const numbers = (...values) => new Uint8Array(Uint32Array.from(values).buffer); // browsers' machines are little-endian
const shorts = (...values) => new Uint8Array(Uint16Array.from(values).buffer);
const length = parts => parts.reduce((sum, part) => sum + part.length, 0);
const chunk = (name, ...parts) => {
  const size = length(parts);
  return [bytes(name), numbers(size), ...parts, ...(size % 2 ? [new Uint8Array(1)] : [])];
};
const list = (name, ...parts) => chunk("LIST", bytes(name), ...parts);

export const avi = (pictures, width, height, fps) => {
  const count = pictures.length, pace = [1000, Math.max(1, Math.round(1000 * fps))];
  const main = numbers(Math.round(1e6 / fps), 0, 0, 0x10, count, 0, 1, 0, width, height, 0, 0, 0, 0);
  const paced = numbers(0, 0, 0, ...pace, 0, count, 0, 0xffffffff, 0);
  const stream = [bytes("vidsMPNG"), paced, shorts(0, 0, width, height)];
  const format = [numbers(40, width, height), shorts(1, 24), bytes("MPNG"), numbers(3 * width * height, 0, 0, 0, 0)];
  const frames = pictures.flatMap(picture => chunk("00dc", picture));
  let place = 4;
  const index = pictures.flatMap(picture => {
    const entry = [bytes("00dc"), numbers(0x10, place, picture.length)];
    place += 8 + picture.length + picture.length % 2;
    return entry;
  });
  const described = list("strl", ...chunk("strh", ...stream), ...chunk("strf", ...format));
  const body = [
    bytes("AVI "), ...list("hdrl", ...chunk("avih", main), ...described), ...list("movi", ...frames),
    ...chunk("idx1", ...index),
  ];
  return new Blob([bytes("RIFF"), numbers(length(body)), ...body], {type: "video/x-msvideo"});
};
