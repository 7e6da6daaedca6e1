// Uploads a picture to the chat backend: checks the limits, waits when it is told to, and says in words what went wrong.
//   import { upload } from "./upload.js";
//   const { url } = await upload(file, { onProgress: (share) => { bar.value = share; } });

const tryAgain = [429, 503]; // answers that name, in Retry-After, when
const defaultSeconds = 5; // for an answer that does not
const longestSeconds = 60;

// What the backend said when it refused: `message` is a sentence for people, `code` is for programs.
export class UploadRefused extends Error {
  constructor({ status, code, detail, requestId }) {
    super(detail);
    Object.assign(this, { name: "UploadRefused", status, code, requestId });
  }
}

// Resolves to the picture's `url`, `width`, `height`…; rejects with UploadRefused, or, as `fetch` does, with a TypeError when there is no
// connection and a TimeoutError when one attempt takes longer than `timeout` milliseconds. `onProgress` is told the share that is sent.
export async function upload(file, { backend = "", attempts = 3, timeout = 600_000, onProgress } = {}) {
  const field = await check(file, backend);
  const form = new FormData();
  form.append(field, file);
  const send = onProgress ? sendWithProgress : sendByFetch;
  for (let attempt = 1; ; attempt += 1) {
    const answer = await send(`${backend}/media/upload`, form, timeout, onProgress);
    if (answer.ok) return answer.json();
    if (attempt === attempts || !tryAgain.includes(answer.status)) throw new UploadRefused(await problem(answer));
    const seconds = Number(answer.headers.get("Retry-After")) || defaultSeconds;
    await new Promise((done) => setTimeout(done, 1000 * Math.min(seconds, longestSeconds)));
  }
}

// The form field to use. What is too large is not sent at all; the type is for media-storage to tell, from the file's bytes.
async function check(file, backend) {
  const answer = await fetch(`${backend}/media/limits`);
  if (!answer.ok) return "file"; // the upload itself will say what is wrong
  const { maxBytes, field } = await answer.json();
  const megabytes = Math.floor(maxBytes / 1_048_576);
  const detail = `This file is too large: at most ${megabytes} MB can be shared.`;
  if (file.size > maxBytes) throw new UploadRefused({ status: 413, code: "file_too_large", detail });
  return field;
}

function sendByFetch(url, body, timeout) {
  return fetch(url, { method: "POST", body, credentials: "include", signal: AbortSignal.timeout(timeout) });
}

// `fetch` does not tell how much has been sent: its request streams, which could, exist in Chromium alone and need HTTP/2. So whoever
// wants progress gets XMLHttpRequest, dressed up as the same kind of answer.
function sendWithProgress(url, body, timeout, onProgress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", url);
    Object.assign(request, { timeout, withCredentials: true });
    request.upload.onprogress = ({ loaded, total }) => onProgress(loaded / total);
    request.onload = () => {
      const headers = ["Content-Type", "Retry-After"].map((name) => [name, request.getResponseHeader(name)]).filter(([, value]) => value);
      resolve(new Response(request.response, { status: request.status, headers }));
    };
    request.onerror = () => reject(new TypeError("Failed to send"));
    request.ontimeout = () => reject(new DOMException("The upload took too long", "TimeoutError"));
    request.send(body);
  });
}

// Of a refusal. Not every answer comes from media-storage: a proxy in between may refuse with a page of its own.
async function problem(answer) {
  const { status } = answer;
  if (answer.headers.get("Content-Type") === "application/problem+json") return { ...(await answer.json()), status };
  return { status, code: "unknown", detail: `The upload failed with status ${status}.` };
}
