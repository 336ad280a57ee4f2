// Audits: start one, watch it, read its report, compare two.
import { ask, events } from "./api.js";
import { chart, el, field, option, show } from "./dom.js";
import { words } from "./words.js";

export function startAudits(section, state, { explain }) {
  const preset = el("select", {}, Object.entries(words.presets).map(([value, text]) => option(value, text)));
  const known = el("datalist", { id: "known-datasets" }, ["handwritten-digits", "mnist:test", "gtsrb:test", "cifar10:test"].map((name) => option(name, name)));
  const dataset = el("input", { placeholder: words.presetDefault }), images = el("input", { type: "number", min: 1, placeholder: words.presetDefault });
  const live = el("div", { "aria-live": "polite" }), history = el("div", {}), report = el("div", {}), differ = el("div", {});
  const start = el("button", { type: "button", className: "primary", onclick: begin }, words.start);
  let watched = null, audits = [];

  const failed = (place) => (error) => { const text = explain(error); if (text) show(place, el("p", { className: "bad", role: "alert" }, text)); };

  dataset.setAttribute("list", known.id);

  async function begin() {
    const spec = { preset: preset.value, model: state.model.name };
    if (dataset.value) spec.dataset = dataset.value;
    if (images.value) spec.samples = Number(images.value);
    start.disabled = true;
    try {
      const audit = await ask("v1/admin/audits", { method: "POST", admin: true, body: JSON.stringify(spec), headers: { "Content-Type": "application/json" } });
      follow(audit);
      await load();
    } catch (error) { failed(live)(error); } finally { start.disabled = false; }
  }

  async function follow(audit) {
    watched?.abort();
    watched = new AbortController();
    const bar = el("progress", { max: audit.progress.total, value: 0, "aria-label": words.live }), text = el("p", {});
    const cancel = el("button", { type: "button", onclick: () => ask(`v1/admin/audits/${audit.id}`, { method: "DELETE", admin: true }).catch(failed(live)) }, words.cancel);
    show(live, el("div", { className: "card" }, el("h2", {}, `${words.live}: ${audit.spec.model}`), bar, text, cancel));
    const tell = ({ done, total, eta_s }) => { bar.max = total; bar.value = done; text.textContent = words.progress(done, total, eta_s && words.minutes(eta_s)); };
    tell(audit.progress);
    try {
      const response = await ask(`v1/admin/audits/${audit.id}/events`, { admin: true, raw: true, signal: watched.signal, headers: { Accept: "text/event-stream" } });
      if (response) for await (const { name, data } of events(response)) {
        if (name === "progress") tell(data);
        if (name === "state" && (data.reason ?? data.waiting_for)) text.textContent = data.reason ?? data.waiting_for;
      }
      const last = await ask(`v1/admin/audits/${audit.id}`, { admin: true });
      tell(last.progress);
      cancel.remove();
      text.textContent = words.ended(last.state) + (last.error ? ` ${last.error.message}` : "");
      await load();
      if (last.state === "succeeded") await read(audit.id);
    } catch (error) { failed(live)(error); }
  }

  async function load() {
    try {
      ({ audits } = await ask("v1/admin/audits", { admin: true }));
      show(history, audits.length ? table() : el("p", {}, words.none));
      await compareCard();
    } catch (error) { failed(history)(error); }
  }

  function table() {
    return el("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": words.history }, el("table", {},
      el("thead", {}, el("tr", {}, [words.started, words.model, words.dataset, words.images, words.state, words.report].map((text) => el("th", { scope: "col" }, text)))),
      el("tbody", {}, audits.map((audit) => el("tr", {}, el("td", {}, new Date(audit.created_at).toLocaleString()), el("td", {}, audit.spec.model), el("td", {}, audit.spec.dataset),
        el("td", { className: "number" }, String(audit.progress.total)), el("td", {}, audit.state),
        el("td", {}, audit.state === "succeeded" ? el("button", { type: "button", onclick: () => read(audit.id) }, words.report)
          : ["queued", "running"].includes(audit.state) ? el("button", { type: "button", onclick: () => follow(audit) }, words.live) : null))))));
  }

  async function read(id) {
    try {
      const response = await ask(`v1/admin/audits/${id}/report`, { admin: true, raw: true, query: { format: "html" } });
      const url = URL.createObjectURL(new Blob([await response.text()], { type: "text/html" }));
      // Sandboxed: a report is for reading and may run nothing.
      show(report, el("div", { className: "card" }, el("p", { className: "row" }, el("h2", {}, words.report),
        el("a", { className: "button", href: url, download: `${id}.html` }, words.download), el("a", { className: "button", href: url, target: "_blank", rel: "noopener" }, words.open),
        el("button", { type: "button", onclick: () => show(report) }, words.close)),
        el("iframe", { src: url, title: words.report, sandbox: "" })));
      report.scrollIntoView();
    } catch (error) { failed(report)(error); }
  }

  async function compareCard() {
    const done = audits.filter((audit) => audit.state === "succeeded");
    if (done.length < 2) { show(differ); return; }
    const name = (audit) => `${audit.spec.model}, ${new Date(audit.created_at).toLocaleString()}`;
    const pick = (nth) => el("select", {}, done.map((audit, i) => option(audit.id, name(audit), i === nth)));
    const [first, second, result] = [pick(1), pick(0), el("div", {})];
    const reports = await Promise.all(done.slice(0, 20).map((audit) => ask(`v1/admin/audits/${audit.id}/report`, { admin: true, headers: { Accept: "application/json" } })));
    const share = ({ result: found }) => found.worst_case?.accuracy;
    const byTime = reports.map((one, i) => [i, one]).reverse().filter(([, one]) => typeof share(one) === "number");
    async function compare() {
      try {
        const [a, b] = await Promise.all([first.value, second.value].map((id) => ask(`v1/admin/audits/${id}/report`, { admin: true, headers: { Accept: "application/json" } })));
        show(result, el("div", { className: "scroll" }, el("table", {}, el("thead", {}, el("tr", {}, [words.line, words.first, words.second, words.change].map((text) => el("th", {}, text)))), el("tbody", {}, rows(a.result, b.result)))));
      } catch (error) { failed(result)(error); }
    }
    show(differ, el("div", { className: "card" }, el("h2", {}, words.compare), el("div", { className: "fields" }, field(words.first, first), field(words.second, second)),
      el("button", { type: "button", onclick: compare }, words.compareRun), result,
      byTime.length > 1 && el("div", {}, el("h3", {}, words.overTime), chart(words.overTime, [{ className: "held", points: byTime.map(([, one], i) => [i + 1, share(one)]) }], byTime.map((_, i) => i + 1)))));
  }

  show(section, el("h1", { id: "audits-title" }, words.auditsTitle),
    el("div", { className: "card" }, el("h2", {}, words.startTitle), el("div", { className: "fields" }, field(words.preset, preset), field(words.dataset, dataset), known, field(words.images, images)), el("p", { className: "row" }, start, el("span", { className: "soft" }, words.needsToken))),
    live, el("div", { className: "card" }, el("h2", {}, words.history), el("button", { type: "button", onclick: load }, words.showHistory), history), differ, report);
  return {};
}

function rows(a, b) {
  const lines = (report) => new Map([["clean", report.clean?.defended], ["worst case", report.worst_case], ...(report.lines ?? []).map((line) => [`${line.title} (${line.knowledge})`, line.defended])]);
  const value = (found) => found?.accuracy ?? null;
  const [left, right] = [lines(a), lines(b)];
  return [...new Set([...left.keys(), ...right.keys()])].map((name) => {
    const [x, y] = [value(left.get(name)), value(right.get(name))], number = (v) => v === null ? "–" : words.percent(v);
    return el("tr", {}, el("td", {}, name), el("td", { className: "number" }, number(x)), el("td", { className: "number" }, number(y)), el("td", { className: "number" }, x === null || y === null ? "" : `${y >= x ? "+" : ""}${(100 * (y - x)).toFixed(1)}`));
  });
}
