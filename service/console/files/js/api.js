// The service, as the page asks it. Keys stay in memory: a reload forgets them.
import { words } from "./words.js";

const base = new URL(".", document.baseURI);
let key = null;

export class Problem extends Error {
  constructor(status, body) {
    super(body.detail || body.error || body.title || `status ${status}`);
    this.status = status;
    this.code = body.code;
  }
}

export function address(path) { return new URL(path, base); }

export async function ask(path, { method = "GET", body, headers = {}, query = {}, signal, raw = false, admin = false } = {}) {
  const url = address(path);
  for (const [name, given] of Object.entries(query)) for (const value of [given].flat()) if (value !== null && value !== undefined && value !== "") url.searchParams.append(name, value);
  for (let wrong = false; ;) {
    if (admin && key === null) await askForKey(wrong);
    const response = await fetch(url, { method, body, signal, headers: { ...headers, ...(key === null ? {} : { Authorization: `Bearer ${key}` }) } });
    if (response.ok) return raw ? response : response.status === 204 ? null : response.json();
    const problem = new Problem(response.status, await response.json().catch(() => ({})));
    if (response.status !== 401) throw problem;
    wrong = key !== null;
    key = null;
    if (!admin) await askForKey(wrong, words.keyTitle);
  }
}

let asking = null;
function askForKey(wrong, title = words.tokenTitle) {
  asking ??= new Promise((resolve, reject) => {
    const dialog = document.getElementById("token-dialog"), input = document.getElementById("token");
    document.getElementById("token-title").textContent = title;
    document.getElementById("token-why").textContent = (wrong ? words.tokenWrong : "") + words.tokenWhy;
    document.getElementById("token-label").textContent = words.token;
    document.getElementById("token-ok").textContent = words.ok;
    document.getElementById("token-cancel").textContent = words.cancelDialog;
    input.value = "";
    dialog.returnValue = "cancel";
    dialog.addEventListener("close", () => {
      asking = null;
      key = dialog.returnValue === "ok" && input.value ? input.value : null;
      input.value = "";
      if (key === null) reject(new Problem(401, { detail: words.tokenTitle, code: "unauthorized" })); else resolve();
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}

// Server-sent events of a response: EventSource can send neither a key nor a picture.
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    buffer += value.replaceAll("\r\n", "\n");
    for (let end; (end = buffer.indexOf("\n\n")) >= 0; buffer = buffer.slice(end + 2)) {
      const lines = buffer.slice(0, end).split("\n").map((line) => line.match(/^(event|data|id): ?(.*)$/)).filter(Boolean);
      const event = Object.fromEntries(lines.map(([, name, text]) => [name, text]));
      if (event.data) yield { name: event.event || "message", data: JSON.parse(event.data) };
    }
  }
}
