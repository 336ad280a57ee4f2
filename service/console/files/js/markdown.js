// The Markdown of model cards as elements: headings, tables, lists, code, emphasis, links. Text stays text.
import { el } from "./dom.js";

export function markdown(text) {
  const out = [], lines = text.replaceAll("\r", "").split("\n");
  for (let i = 0; i < lines.length;) {
    const line = lines[i];
    if (/^\s*$/.test(line)) { i++; continue; }
    const heading = line.match(/^(#{1,4}) (.*)/);
    if (heading) { out.push(el(heading[1].length < 3 ? "h2" : "h3", {}, inline(heading[2]))); i++; continue; }
    if (line.startsWith("```")) {
      const end = lines.indexOf("```", i + 1), stop = end < 0 ? lines.length : end;
      out.push(el("pre", {}, el("code", {}, lines.slice(i + 1, stop).join("\n"))));
      i = stop + 1; continue;
    }
    const block = [];
    while (i < lines.length && !/^\s*$/.test(lines[i]) && !/^(#|```)/.test(lines[i])) block.push(lines[i++]);
    if (block[0].startsWith("|") && /^\|[\s:|-]+\|$/.test(block[1] ?? "")) out.push(table(block));
    else if (/^[-*] /.test(block[0])) out.push(el("ul", {}, items(block).map((item) => el("li", {}, inline(item)))));
    else out.push(el("p", {}, inline(block.join(" "))));
  }
  return out;
}

function items(block) {
  const found = [];
  for (const line of block) if (/^[-*] /.test(line)) found.push(line.slice(2)); else found[found.length - 1] += ` ${line.trim()}`;
  return found;
}

function table(block) {
  const cells = (line) => line.replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map((cell) => cell.trim());
  return el("table", {}, el("thead", {}, el("tr", {}, cells(block[0]).map((cell) => el("th", {}, inline(cell))))),
    el("tbody", {}, block.slice(2).map((line) => el("tr", {}, cells(line).map((cell) => el("td", {}, inline(cell)))))));
}

function inline(text) {
  return text.split(/(`[^`]+`|\*\*[^*]+\*\*|\[[^\]]+\]\(https?:[^)\s]+\))/).map((part) => {
    if (/^`.+`$/.test(part)) return el("code", {}, part.slice(1, -1));
    if (/^\*\*.+\*\*$/.test(part)) return el("strong", {}, part.slice(2, -2));
    const link = part.match(/^\[(.+)\]\((.+)\)$/);
    return link ? el("a", { href: link[2], rel: "noreferrer" }, link[1]) : part.replaceAll(/\\([\\`*_{}[\]()#+.!|<>-])/g, "$1");
  });
}
