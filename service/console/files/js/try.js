// Classify one picture, then attack it.
import { address, ask } from "./api.js";
import { attackCard } from "./attack.js";
import { copyable, el, show } from "./dom.js";
import { picturePicker } from "./picture.js";
import { words } from "./words.js";

export function startTry(section, state, { explain }) {
  const result = el("div", { "aria-live": "polite" });
  let picture = null, running = null;
  const picker = picturePicker(state, (chosen) => { picture = chosen; classify(); }, failed);

  async function classify() {
    running?.abort();
    running = new AbortController();
    const { signal } = running, sent = URL.createObjectURL(picture);
    show(result, el("p", { className: "card" }, words.working));
    try {
      const answer = await ask("v1/classify", { method: "POST", body: picture, headers: { "Content-Type": picture.type || "application/octet-stream" }, query: { model: state.model?.name, include: ["denoised", "seen"] }, signal });
      show(result, answerCard(answer, sent, state), attackCard(picture, answer, state, explain));
    } catch (error) { failed(error); }
  }

  function failed(error) {
    const text = explain(error);
    if (text) show(result, el("p", { className: "card bad", role: "alert" }, text));
  }

  show(section, el("h1", { id: "try-title" }, words.tryTitle), el("p", { className: "soft" }, words.tryIntro),
    el("div", { className: "columns" }, el("div", { className: "card" }, picker.element), result));
  const modelChanged = () => { picker.modelChanged(); if (picture) classify(); };
  picker.modelChanged();
  return { modelChanged };
}

function answerCard(answer, sent, state) {
  const model = state.model, few = model.labels.slice(0, 6).join(", ");
  const knows = model.labels.length > 6 ? `${few}, … (${model.labels.length} labels)` : few;
  const outside = answer.domain && !answer.domain.inside;
  return el("div", { className: "card" },
    el("p", { className: "sentence" }, words.answer(answer.label, words.sure(answer.confidence))),
    outside && el("p", { className: "warn" }, words.outside(knows)),
    !outside && answer.suspicion?.flagged && el("p", { className: "warn" }, words.disagree),
    el("div", { className: "pictures" }, figure(words.sent, sent), figure(words.seen, answer.seen), figure(words.denoised, answer.denoised), difference(answer.seen, answer.denoised)),
    bars(answer),
    el("details", {}, el("summary", {}, words.asCurl), copyable(commands(model.name), words)));
}

export function figure(caption, source) {
  return el("figure", {}, el("img", { src: source, alt: caption }), el("figcaption", {}, caption));
}

// The denoised picture minus the seen one, on grey, twice as strong.
function difference(before, after) {
  const canvas = el("canvas", { role: "img", "aria-label": words.difference }), pen = canvas.getContext("2d", { willReadFrequently: true });
  Promise.all([before, after].map((source) => { const image = new Image(); image.src = source; return image.decode().then(() => image); })).then((images) => {
    Object.assign(canvas, { width: images[0].naturalWidth, height: images[0].naturalHeight });
    const [a, b] = images.map((image) => { pen.drawImage(image, 0, 0); return pen.getImageData(0, 0, canvas.width, canvas.height); });
    for (let i = 0; i < a.data.length; i++) if (i % 4 !== 3) a.data[i] = 128 + 2 * (b.data[i] - a.data[i]);
    pen.putImageData(a, 0, 0);
  });
  return el("figure", {}, canvas, el("figcaption", {}, words.difference));
}

function bars(answer) {
  const bar = (name, value, className) => el("progress", { className, max: 1, value, "aria-label": name });
  const alone = answer.undefended;
  return el("div", {}, el("p", { className: "legend" }, el("span", {}, words.withDenoiser), el("span", { className: "bare" }, words.without)),
    el("dl", { className: "bars" }, answer.top_k.map(({ label, probability }) => [
      el("dt", {}, label),
      el("dd", {}, bar(`${label}, ${words.withDenoiser}`, probability, "held"),
        alone?.label === label && bar(`${label}, ${words.without}`, alone.confidence, "bare")),
      el("dd", { className: "number" }, words.percent(probability))])),
    alone && !answer.top_k.some(({ label }) => label === alone.label) && el("p", { className: "warn" }, `${words.without}: ${alone.label} (${words.percent(alone.confidence)})`));
}

function commands(model) {
  const url = address(`v1/classify?model=${encodeURIComponent(model)}`).href;
  return `curl -F file=@picture.png '${url}'\n\nfrom fend.client import Client\nprint(Client("${address(".").href}").classify("picture.png", model="${model}").label)`;
}
