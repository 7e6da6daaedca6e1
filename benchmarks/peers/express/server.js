// Express + multer + multer-s3 in a cluster of two processes. Configured by its environment; see ../../README.md.
"use strict";

const cluster = require("node:cluster");
const { randomUUID } = require("node:crypto");

const PROCESSES = 2;
const MAX_BYTES = 10 * 1024 * 1024;
const TYPES = { "image/jpeg": "jpg", "image/png": "png", "image/webp": "webp" };
const { BACKEND, BUCKET, ENDPOINT, PORT, S3_ACCESS_KEY, S3_SECRET_KEY } = process.env;

async function session(request, response, next) {
  if (!request.headers.cookie) return response.status(401).json({ detail: "Sign in first." });
  const answer = await fetch(BACKEND, { headers: { cookie: request.headers.cookie } });
  if (answer.status !== 200) return response.status(401).json({ detail: "Sign in first." });
  request.user = (await answer.json()).id;
  next();
}

function upload() {
  const { S3Client } = require("@aws-sdk/client-s3");
  const multer = require("multer");
  const multerS3 = require("multer-s3");
  const s3 = new S3Client({
    endpoint: ENDPOINT,
    region: "us-east-1",
    forcePathStyle: true,
    credentials: { accessKeyId: S3_ACCESS_KEY, secretAccessKey: S3_SECRET_KEY },
  });
  const storage = multerS3({
    s3,
    bucket: BUCKET,
    contentType: (request, file, done) => done(null, file.mimetype),
    key: (request, file, done) => done(null, `uploads/${request.user}/${randomUUID()}.${TYPES[file.mimetype]}`),
  });
  const fileFilter = (request, file, done) => done(null, file.mimetype in TYPES);
  return multer({ storage, fileFilter, limits: { fileSize: MAX_BYTES, files: 1 } }).single("file");
}

function serve() {
  const app = require("express")();
  app.disable("x-powered-by");
  app.post("/media/upload", session, upload(), (request, response) => {
    if (!request.file) return response.status(415).json({ detail: "Send one picture in the field `file`." });
    const { key, size, mimetype } = request.file;
    response.status(201).json({ key, url: `/media/${key}`, contentType: mimetype, size });
  });
  app.get("/media/uploads/:user/:name", (request, response) => {
    response.set("Cache-Control", "public, max-age=86400");
    response.redirect(302, `${ENDPOINT}/${BUCKET}/uploads/${request.params.user}/${request.params.name}`);
  });
  app.listen(Number(PORT), "127.0.0.1");
}

if (cluster.isPrimary) {
  for (let started = 0; started < PROCESSES; started += 1) cluster.fork();
} else {
  serve();
}
