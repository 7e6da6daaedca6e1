// A chat backend in Express whose users share pictures through media-storage. In this folder: npm install && node server.js
// Copy `forward` and `problem`; your own sign-in stands where `/auth` is.
"use strict";

const { randomUUID } = require("node:crypto");
const http = require("node:http"); // node:https for a media-storage behind TLS
const { pipeline } = require("node:stream");
const express = require("express");

const ACCOUNTS = { alice: 1, bob: 2 };
const PASSWORD = "picture"; // no secret: these accounts are for trying
const STORAGE = process.env.MEDIA_STORAGE_URL ?? "http://127.0.0.1:9101";
// Of the pages that may act for whoever is signed in.
const ORIGINS = (process.env.CHAT_ORIGINS ?? "http://localhost:3000 http://localhost:5173").split(" ");
const FORWARDED = ["content-length", "content-type", "cookie", "x-request-id"];
const PASSED_BACK = ["cache-control", "content-length", "content-type", "location", "retry-after", "x-request-id"];

const app = express();
const sessions = new Map();

app.post("/auth/sign-in", express.json(), (request, response) => {
  const { name, password } = request.body ?? {};
  if (!Object.hasOwn(ACCOUNTS, name) || password !== PASSWORD)
    return problem(request, response, 401, "wrong_password", "That name and password do not match.");
  const token = randomUUID();
  sessions.set(token, name);
  response.cookie("chat_session", token, { httpOnly: true, sameSite: "lax" }); // behind https, secure: true too
  response.json({ id: ACCOUNTS[name], name });
});

// Whose cookie this is. It never sets one: media-storage asks, and no `Set-Cookie` gets from there to the browser.
app.get("/auth/me", (request, response) => {
  const name = sessions.get(/(?:^|; *)chat_session=([^;]*)/.exec(request.headers.cookie)?.[1]);
  if (!name) return problem(request, response, 401, "unauthenticated", "Nobody is signed in.");
  response.json({ id: ACCOUNTS[name], name });
});

// Hands a request to media-storage, the body piece by piece, and passes the answer back as it is.
function forward(request, response) {
  const { origin } = request.headers; // servers and command lines send none; it is checked here, and does not go on
  if (origin !== undefined && !ORIGINS.includes(origin))
    return problem(request, response, 403, "origin_not_allowed", "Only this chat's own pages may do that.");
  const headers = pick(request.headers, FORWARDED); // without a length, Node sends chunks
  // A stream cannot be sent twice, so it never goes into an old connection that may be dead: no agent keeps any.
  // Node's 60 s of silence are longer than media-storage waits for its store.
  const onward = http.request(STORAGE, { method: request.method, path: request.originalUrl, headers, agent: false, timeout: 60_000 });
  onward.on("response", (answer) => {
    request.unpipe(onward).resume(); // a refusal may come early: no more goes on, and the browser can send to its end
    response.writeHead(answer.statusCode, pick(answer.headers, PASSED_BACK));
    pipeline(answer, response, () => {}); // which breaks off where the answer does
  });
  onward.on("timeout", () => onward.destroy(new Error("no answer in time")));
  onward.on("error", (error) => {
    if (response.headersSent || response.destroyed) return;
    console.warn("media-storage: %s", error.message);
    request.unpipe(onward).resume();
    response.set("Retry-After", "5");
    problem(request, response, 503, "storage_unavailable", "Pictures cannot be reached right now. Try again in a moment.");
  });
  response.on("close", () => onward.destroy()); // answered, or the browser has gone: then media-storage is cut off too, and keeps nothing
  request.pipe(onward);
}
app.post("/media/upload", forward);
app.get("/media/limits", forward);
app.delete("/media/*key", forward);

function pick(headers, names) {
  return Object.fromEntries(names.filter((name) => name in headers).map((name) => [name, headers[name]]));
}

// A refusal in the form that media-storage uses too: problem+json (RFC 9457).
function problem(request, response, status, code, detail) {
  const about = { type: "about:blank", title: http.STATUS_CODES[status], status };
  response.writeHead(status, { "content-type": "application/problem+json" });
  response.end(JSON.stringify({ ...about, detail, code, requestId: request.headers["x-request-id"] ?? null }));
}

const server = app.listen(Number(process.env.PORT ?? 8002), "127.0.0.1");
server.requestTimeout = 600_000; // Node's own 5 minutes are less than media-storage gives an upload
