// The models: what each knows and withstands, its card, and which version serves.
import { ask } from "./api.js";
import { el, show } from "./dom.js";
import { markdown } from "./markdown.js";
import { words } from "./words.js";

export function startModels(section, state, { explain, loadModels }) {
  const list = el("div", {}), said = el("p", { role: "status" });

  async function load() {
    try {
      const { models } = await ask("v1/models");
      show(list, models.map(modelCard));
    } catch (error) { show(list, el("p", { className: "bad", role: "alert" }, explain(error))); }
  }

  function modelCard(model) {
    const more = el("div", {});
    const details = el("details", { ontoggle: () => details.open && !more.hasChildNodes() && showMore(model, more) }, el("summary", {}, `${words.card}, ${words.versions.toLowerCase()}`), more);
    const labels = model.labels ?? [];
    return el("article", { className: "card" }, el("h2", {}, model.name, " ", el("small", { className: model.available ? "good" : "bad" }, model.available ? words.serves : words.refused(model.refused))),
      model.available && el("p", {}, words.knowsLabels(labels.length, labels.slice(0, 12).join(", ") + (labels.length > 12 ? " …" : ""))),
      model.available && el("p", { className: "soft" }, el("code", {}, model.version.slice(0, 19)), ` ${model.denoiser} → ${model.classifier}, ${model.input.width_px}×${model.input.height_px}×${model.input.channels}`),
      details);
  }

  async function showMore(model, place) {
    show(place, el("p", {}, words.working));
    try {
      const full = await ask(`v1/models/${encodeURIComponent(model.name)}`), last = full.last_audit;
      const versions = el("div", {}, el("button", { type: "button", onclick: () => showVersions(model.name, versions) }, words.versions), " ", el("span", { className: "soft" }, words.needsToken));
      show(place, el("p", {}, last?.worst_case ? words.lastAudit(words.percent(last.worst_case.accuracy), last.threat.epsilon, last.worst_case.n) : words.noAudit),
        full.card && el("div", { className: "rendered" }, markdown(full.card)), versions);
    } catch (error) { show(place, el("p", { className: "bad", role: "alert" }, explain(error))); }
  }

  async function showVersions(name, place) {
    try {
      const models = await ask("v1/admin/models", { admin: true });
      const { versions } = models.find((model) => model.name === name);
      show(place, el("div", { className: "scroll" }, el("table", {}, el("thead", {}, el("tr", {}, el("th", {}, words.version), el("th", {}))),
        el("tbody", {}, versions.map((version) => el("tr", {}, el("td", {}, el("code", {}, version.version?.slice(0, 19) ?? version.folder)),
          el("td", {}, version.active ? words.active : version.refused ? words.refused(version.refused)
            : el("button", { type: "button", onclick: () => activate(name, version.version, place) }, words.activate))))))));
    } catch (error) { show(place, el("p", { className: "bad", role: "alert" }, explain(error))); }
  }

  async function activate(name, version, place) {
    said.textContent = words.working;
    try {
      await ask(`v1/admin/models/${encodeURIComponent(name)}/activate`, { method: "POST", admin: true, body: JSON.stringify({ version }), headers: { "Content-Type": "application/json" } });
      said.textContent = words.activated(name);
      await loadModels();
      await showVersions(name, place);
    } catch (error) { said.textContent = explain(error); }
  }

  show(section, el("h1", { id: "models-title" }, words.modelsTitle), said, list);
  return { enter: load };
}
