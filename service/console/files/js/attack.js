// Attack one picture while one watches.
import { address, ask, events } from "./api.js";
import { chart, copyable, el, field, option, show } from "./dom.js";
import { figure } from "./try.js";
import { words } from "./words.js";

const HARDER = 1.6, HARDEST = 0.6;

export function attackCard(picture, answer, state, explain) {
  const grey = state.model.input.channels === 1;
  const epsilon = el("input", { type: "range", min: 0, max: grey ? 0.5 : 32, step: grey ? 0.01 : 0.5, value: grey ? 0.2 : 8, oninput: tell });
  const told = el("output", {}), kind = el("select", {}, Object.entries(words.kinds).map(([value, text]) => option(value, text, value === "pgd")));
  const steps = el("input", { type: "number", min: 1, max: 200, value: 20 });
  const knowledge = el("select", {}, Object.entries(words.knows).map(([value, text]) => option(value, text)));
  const run = el("button", { type: "button", className: "primary", onclick: () => attack() }, words.run);
  const again = el("button", { type: "button", onclick: harder }, words.again);
  const stop = el("button", { type: "button", disabled: true, onclick: () => running?.abort() }, words.stop);
  const result = el("div", { "aria-live": "polite" });
  let running = null;

  function written() { return grey ? epsilon.value : `${epsilon.value}/255`; }
  function tell() { told.textContent = written(); }
  tell();

  async function attack() {
    running?.abort();
    const mine = running = new AbortController();
    run.disabled = again.disabled = true;
    stop.disabled = false;
    const query = { model: state.model.name, attack: kind.value, epsilon: written(), steps: steps.value, knowledge: knowledge.value, label: answer.label };
    let last = null;
    const points = [], place = el("div", {});
    show(result, el("p", {}, words.working), place);
    try {
      const response = await ask("v1/admin/attacks", { method: "POST", admin: true, raw: true, body: picture, query, signal: mine.signal, headers: { "Content-Type": picture.type || "application/octet-stream", Accept: "text/event-stream" } });
      for await (const { name, data } of events(response)) {
        if (name === "problem") throw Object.assign(new Error(data.detail), { status: data.status });
        if (name === "end") { last = data; show(result, outcome(data, query)); continue; }
        points.push(data);
        show(place, curve(answer.label, points));
      }
    } catch (error) {
      show(result, el("p", { className: "bad", role: "alert" }, explain(error)));
    } finally {
      run.disabled = again.disabled = false;
      stop.disabled = true;
    }
    return last;
  }

  async function harder() {
    for (let last = await attack(); last?.holds; last = await attack()) {
      const next = Math.min(Number(epsilon.value) * HARDER || Number(epsilon.step), Number(epsilon.max));
      if (next <= Number(epsilon.value)) return;
      epsilon.value = next;
      tell();
    }
  }

  return el("div", { className: "card" }, el("h2", {}, words.attackTitle), el("p", { className: "soft" }, words.attackIntro),
    el("div", { className: "fields" }, field(words.kind, kind), el("label", {}, el("span", {}, words.epsilon, " ", told), epsilon), field(words.steps, steps), field(words.knowledge, knowledge)),
    el("p", { className: "row" }, run, again, stop), result);
}

function curve(label, points) {
  const line = (className, name) => ({ className, points: points.map((point) => [point.passes, point[name]]) });
  return el("div", {}, el("p", { className: "soft" }, words.chart(label)),
    el("p", { className: "legend" }, el("span", {}, words.withDenoiser), el("span", { className: "bare" }, words.without)),
    chart(words.chart(label), [line("alone", "label_undefended"), line("held", "label_defended")], points.map((point) => point.passes)));
}

function outcome(data, query) {
  const { label, pictures, adversarial } = data;
  const held = data.holds ? words.holds(label) : words.falls(label, adversarial.defended.label);
  const alone = data.undefended_holds ? words.aloneHolds : words.aloneFalls(adversarial.undefended.label);
  const url = address("v1/admin/attacks");
  for (const [name, value] of Object.entries(query)) url.searchParams.set(name, value);
  return el("div", {},
    el("p", { className: `sentence ${data.holds ? "good" : "bad"}` }, held), el("p", { className: data.undefended_holds ? "" : "warn" }, alone),
    el("div", { className: "pictures" }, figure(words.seen, pictures.clean), figure(words.attacked, pictures.adversarial), figure(words.perturbation, pictures.perturbation), figure(words.denoised, pictures.denoised)),
    data.along.length > 1 && curve(label, data.along),
    el("p", { className: "soft" }, words.took(data.duration_s.toFixed(2), data.forward_passes + data.backward_passes), " ", words.oneImage, " ", el("a", { href: "#audits" }, words.auditsTitle)),
    el("details", {}, el("summary", {}, words.asCurl), copyable(`curl -H "Authorization: Bearer $TOKEN" -F file=@picture.png '${url.href}'`, words)));
}
