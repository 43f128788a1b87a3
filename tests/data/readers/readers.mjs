// Node's readers of forms and its JSON: a line of JSON in for each body, a line of what was read out.
import { createHash } from "node:crypto";
import { createInterface } from "node:readline";
import { Readable } from "node:stream";
import busboy from "busboy";
import { Busboy as FastifyBusboy } from "@fastify/busboy";
import formidable from "formidable";
import multiparty from "multiparty";

const LIMIT = 2000; // milliseconds: some of these readers never end on a form that is cut

const digest = (data) => createHash("sha256").update(data).digest("hex");
const add = (table, name, value) => (table[name] ??= []).push(value);

function request(type, body) {
  const stream = Readable.from([body], { objectMode: false });
  stream.headers = { "content-type": type, "content-length": String(body.length) };
  return stream;
}

async function bytes(stream) {
  const pieces = [];
  for await (const piece of stream) pieces.push(piece);
  return Buffer.concat(pieces);
}

function withBusboy(make) {
  return (type, body) =>
    new Promise((resolve, reject) => {
      const texts = {}, files = {}, pending = [];
      const form = make({ headers: { "content-type": type } });
      form.on("field", (name, value) => add(texts, name, value));
      form.on("file", (name, file) => {
        const read = bytes(file).then((data) => add(files, name, digest(data)));
        read.catch(reject);
        pending.push(read);
      });
      const end = () => Promise.all(pending).then(() => resolve({ texts, files }), reject);
      form.on("finish", end);
      form.on("close", end);
      form.on("error", reject);
      form.end(body);
    });
}

async function withFormidable(type, body) {
  const held = [];
  const { PassThrough } = await import("node:stream");
  const form = formidable({
    allowEmptyFiles: true,
    minFileSize: 0,
    fileWriteStreamHandler: (file) => {
      const stream = new PassThrough();
      held.push(bytes(stream).then((data) => [file, data]));
      return stream;
    },
  });
  const names = new Map();
  form.on("file", (name, file) => names.set(file, name));
  const [texts] = await form.parse(request(type, body));
  const files = {};
  const read = await Promise.all(held);
  let at = 0;
  for (const name of names.values()) add(files, name, digest(read[at++][1]));
  return { texts, files };
}

function withMultiparty(type, body) {
  return new Promise((resolve, reject) => {
    const texts = {}, files = {}, pending = [];
    const form = new multiparty.Form();
    form.on("field", (name, value) => add(texts, name, value));
    form.on("part", (part) => {
      const read = bytes(part).then((data) => add(files, part.name, digest(data)));
      read.catch(reject);
      pending.push(read);
    });
    form.on("error", reject);
    form.on("close", () => Promise.all(pending).then(() => resolve({ texts, files }), reject));
    form.parse(request(type, body));
  });
}

async function withFetch(type, body) {
  const texts = {}, files = {};
  for (const [name, value] of await new Response(body, { headers: { "content-type": type } }).formData()) {
    if (typeof value === "string") add(texts, name, value);
    else add(files, name, digest(Buffer.from(await value.arrayBuffer())));
  }
  return { texts, files };
}

async function withJson(type, body) {
  const texts = {};
  for (const [name, value] of Object.entries(JSON.parse(body.toString()))) texts[name] = [JSON.stringify(value)];
  return { texts, files: {} };
}

const FORMS = [
  ["busboy", "last", withBusboy((options) => busboy(options))],
  ["@fastify/busboy", "last", withBusboy((options) => new FastifyBusboy(options))],
  ["formidable", "first", withFormidable],
  ["multiparty", "last", withMultiparty],
  ["node fetch", "first", withFetch],
];
const OBJECTS = [["node JSON", "last", withJson]];

function within(limit, work) {
  let timer;
  const late = new Promise((_, reject) => (timer = setTimeout(() => reject(new Error("no end")), limit)));
  return Promise.race([work, late]).finally(() => clearTimeout(timer));
}

async function read([reader, picks, how], type, body) {
  try {
    const found = await within(LIMIT, Promise.resolve().then(() => how(type, body)));
    return { reader, picks, error: "", ...found };
  } catch (error) {
    return { reader, picks, error: String(error?.message ?? error) || "refused", texts: {}, files: {} };
  }
}

process.on("uncaughtException", () => {}); // a reader that throws beside its caller has not read the form
process.on("unhandledRejection", () => {});

for await (const line of createInterface({ input: process.stdin })) {
  const asked = JSON.parse(line);
  const body = Buffer.from(asked.body, "base64");
  const readers = asked.type === "application/json" ? OBJECTS : FORMS;
  const readings = await Promise.all(readers.map((reader) => read(reader, asked.type, body)));
  process.stdout.write(JSON.stringify(readings) + "\n");
}
