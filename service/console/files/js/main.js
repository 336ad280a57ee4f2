// Which part is shown, which model is meant, and whether the service is there.
import { ask } from "./api.js";
import { option, show } from "./dom.js";
import { words } from "./words.js";
import { startTry } from "./try.js";
import { startModels } from "./models.js";
import { startAudits } from "./audits.js";

const PARTS = { try: startTry, models: startModels, audits: startAudits };
const WATCH_MS = 5000;
const chooser = document.getElementById("model");
const state = {
  models: [],
  get model() { return this.models.find((model) => model.name === chooser.value); },
};
const shown = {};

function trouble(text) {
  const line = document.getElementById("trouble");
  line.textContent = text;
  line.hidden = !text;
}

export function explain(error) {
  if (error.name === "AbortError") return "";
  if (error instanceof TypeError) { watch(); return words.gone; }
  return error.status === 413 ? `${words.tooBig} ${error.message}` : error.message;
}

async function loadModels() {
  const { models } = await ask("v1/models");
  const before = chooser.value;
  state.models = models.filter((model) => model.available);
  show(chooser, state.models.map((model) => option(model.name, model.name, before ? model.name === before : model.default)));
}

function route() {
  const wanted = location.hash.slice(1).split("/")[0];
  const part = wanted in PARTS ? wanted : "try";
  for (const name of Object.keys(PARTS)) document.getElementById(name).hidden = name !== part;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === `#${part}`) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  }
  shown[part] ??= PARTS[part](document.getElementById(part), state, { explain, loadModels });
  shown[part].enter?.();
}

let watching = null;
function watch() {
  trouble(words.gone);
  watching ??= setInterval(async () => {
    try {
      await ask("livez");
      clearInterval(watching);
      watching = null;
      trouble("");
      await loadModels();
    } catch { trouble(words.gone); }
  }, WATCH_MS);
}

window.addEventListener("hashchange", route);
chooser.addEventListener("change", () => { for (const part of Object.values(shown)) part.modelChanged?.(); });
try { await loadModels(); } catch (error) { trouble(explain(error)); }
route();
