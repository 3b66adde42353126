// Prints the likeliest classes of raw frames, with a file of `octvideo export --inputs frames`.
//
//   node predict.js model.onnx frames.raw [classes to print]

import { readFileSync } from "node:fs";
import ort from "onnxruntime-node";

const [modelPath, framesPath, shown = "5"] = process.argv.slice(2);
if (!framesPath) {
  console.error("usage: node predict.js model.onnx frames.raw [classes to print]");
  process.exit(2);
}
try {
  const record = readRecord(readFileSync(modelPath));
  const scores = await score(record, readFileSync(framesPath));
  const order = [...scores.keys()].sort((a, b) => scores[b] - scores[a]);
  for (const label of order.slice(0, Number(shown))) {
    console.log(`${scores[label].toFixed(6)}  ${record.class_names[label] ?? `class ${label}`}`);
  }
} catch (error) {
  console.error(`error: ${error.message}`);
  process.exitCode = 2;
}

// Returns the mean of the scores over all clips.
async function score(record, frames) {
  if (record.inputs !== "frames") {
    throw new Error(`${modelPath} takes ${record.inputs}: export it with --inputs frames`);
  }
  // T H W 3; a file for any size has names for H and W.
  const clip = record.input_shape.slice(1).map((n) => (isNaN(n) ? record.crop_size : n));
  const size = clip.reduce((a, b) => a * b);
  const count = frames.length / size;
  if (!count || !Number.isInteger(count)) {
    throw new Error(`${framesPath} has ${frames.length} bytes, no multiple of ${size} of a clip`);
  }
  const session = await ort.InferenceSession.create(modelPath);
  const mean = new Float64Array(record.num_classes);
  for (let i = 0; i < count; i++) { // one clip at a time needs least memory
    const pixels = new Uint8Array(frames.subarray(i * size, (i + 1) * size));
    const input = new ort.Tensor("uint8", pixels, [1, ...clip]);
    const { scores } = await session.run({ frames: input });
    scores.data.forEach((value, label) => (mean[label] += value / count));
  }
  return mean;
}

// Returns the record that octvideo has put into a file. onnxruntime-node does not show it: it is
// among the file's metadata, field 14 of a protocol buffer, as a key (field 1) and a value (2).
function readRecord(file) {
  for (const [number, entry] of fields(file)) {
    if (number !== 14) continue;
    const { 1: key, 2: value } = Object.fromEntries(fields(entry));
    if (key.toString() === "octvideo") return JSON.parse(value.toString());
  }
  throw new Error(`${modelPath} was not made by octvideo export`);
}

// Yields number and bytes of each field of a protocol buffer that has a length.
function* fields(bytes) {
  let at = 0;
  const varint = () => {
    for (let value = 0, scale = 1; ; scale *= 128) {
      const byte = bytes[at++];
      if (byte === undefined) throw new Error(`${modelPath} is no ONNX file, or damaged`);
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const tag = varint();
    const kind = tag % 8;
    if (kind === 2) {
      const length = varint();
      yield [Math.floor(tag / 8), bytes.subarray(at, at + length)];
      at += length;
    } else if (kind === 0) varint();
    else at += kind === 1 ? 8 : 4;
  }
}
