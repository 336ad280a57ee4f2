// Elements without innerHTML: what a model or a file is called is text, never markup.
export function el(name, attributes = {}, ...children) {
  const svg = ["svg", "path", "line", "text", "g", "circle", "title"].includes(name);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key in element && !svg && key !== "list") element[key] = value;
    else element.setAttribute(key === "className" ? "class" : key, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function show(parent, ...children) { parent.replaceChildren(...children.flat(Infinity).filter(Boolean)); }

export function option(value, text, selected = false) { return el("option", { value, selected }, text); }

export function field(label, control) { return el("label", {}, el("span", {}, label), control); }

// Lines over a common axis: series of {className, points: [[x, y 0..1]], label}.
export function chart(title, series, xs) {
  const width = 560, height = 200, left = 40, bottom = 24, most = Math.max(...xs, 1), least = Math.min(...xs, 0);
  const x = (value) => left + (width - left - 10) * (value - least) / Math.max(most - least, 1e-9), y = (value) => 10 + (height - bottom - 10) * (1 - value);
  const path = (points) => points.map(([a, b], i) => `${i ? "L" : "M"}${x(a).toFixed(1)} ${y(b).toFixed(1)}`).join("");
  return el("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title },
    el("title", {}, title),
    [0, 0.5, 1].map((value) => el("g", {}, el("line", { class: "grid", x1: left, x2: width - 10, y1: y(value), y2: y(value) }),
      el("text", { x: 4, y: y(value) + 4 }, `${100 * value} %`))),
    el("text", { x: left, y: height - 6 }, String(least)), el("text", { x: width - 10, y: height - 6, "text-anchor": "end" }, String(most)),
    series.map((line) => el("path", { class: line.className, d: path(line.points) })));
}

export function copyable(text, words) {
  const button = el("button", { type: "button", onclick: async () => {
    await navigator.clipboard.writeText(text);
    button.textContent = words.copied;
  } }, words.copy);
  return el("div", {}, el("pre", {}, el("code", {}, text)), button);
}
