// Where a picture comes from: dropped, pasted, chosen, photographed, drawn, or a sample.
import { address } from "./api.js";
import { el, show } from "./dom.js";
import { words } from "./words.js";

const PX = 280, STEP_PX = 10;

export function picturePicker(state, onPicture, onError) {
  const file = el("input", { type: "file", accept: "image/*", onchange: () => { if (file.files[0]) onPicture(file.files[0]); file.value = ""; } });
  const camera = el("input", { type: "file", accept: "image/*", hidden: true, onchange: () => { if (camera.files[0]) onPicture(camera.files[0]); camera.value = ""; } });
  camera.setAttribute("capture", "environment");
  camera.setAttribute("aria-label", words.photograph);
  const drop = el("label", { className: "drop" }, words.drop, file);
  for (const name of ["dragenter", "dragover"]) drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
  for (const name of ["dragleave", "drop"]) drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.remove("over"); });
  drop.addEventListener("drop", (event) => { const [dropped] = event.dataTransfer.files; if (dropped) onPicture(dropped); });
  document.addEventListener("paste", (event) => {
    const pasted = [...(event.clipboardData?.files ?? [])].find((one) => one.type.startsWith("image/"));
    if (pasted && !drop.closest("[hidden]")) onPicture(pasted);
  });
  const samples = el("div", {});
  const element = el("div", {},
    drop, el("p", { className: "row" }, el("button", { type: "button", onclick: () => camera.click() }, words.photograph)), camera,
    samples, pad(onPicture));
  return { element, modelChanged: () => showSamples(samples, state, onPicture, onError) };
}

async function showSamples(place, state, onPicture, onError) {
  show(place);
  const sets = await fetch(address("page/samples/index.json")).then((response) => response.json()).catch(() => []);
  const set = sets.find(({ labels }) => labels.every((label) => state.model?.labels.includes(label)));
  if (!set) return;
  const pick = (name) => fetch(address(`page/samples/${name}`)).then((response) => response.blob()).then((blob) => onPicture(new File([blob], name, { type: "image/png" })), onError);
  show(place, el("h2", {}, words.samples), el("ul", { className: "samples" }, set.files.map((name, i) =>
    el("li", {}, el("button", { type: "button", "aria-label": words.sample(i + 1), onclick: () => pick(name) },
      el("img", { src: address(`page/samples/${name}`).href, alt: "" }))))));
}

function pad(onPicture) {
  const canvas = el("canvas", { id: "drawing", width: PX, height: PX, tabIndex: 0 });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", words.drawingLabel);
  const pen = canvas.getContext("2d");
  const clear = () => { pen.fillStyle = "#000"; pen.fillRect(0, 0, PX, PX); };
  const at = (event) => { const box = canvas.getBoundingClientRect(); return [(event.clientX - box.left) * PX / box.width, (event.clientY - box.top) * PX / box.height]; };
  const line = (from, to) => {
    Object.assign(pen, { strokeStyle: "#fff", lineWidth: PX / 13, lineCap: "round" });
    pen.beginPath(); pen.moveTo(...from); pen.lineTo(...to); pen.stroke();
  };
  let last = null;
  canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); last = at(event); line(last, last); });
  canvas.addEventListener("pointermove", (event) => { if (last) { line(last, at(event)); last = at(event); } });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { last = null; });
  let place = [PX / 2, PX / 4], down = false;
  canvas.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (event.key === " ") { down = !down; if (down) line(place, place); event.preventDefault(); }
    if (!move) return;
    event.preventDefault();
    const next = place.map((value, i) => Math.min(PX, Math.max(0, value + STEP_PX * move[i])));
    if (down) line(place, next);
    place = next;
  });
  clear();
  return el("details", {}, el("summary", {}, words.draw), canvas, el("p", { className: "row" },
    el("button", { type: "button", className: "primary", onclick: () => canvas.toBlob((blob) => onPicture(new File([blob], "drawing.png", { type: "image/png" }))) }, words.useDrawing),
    el("button", { type: "button", onclick: clear }, words.clear)));
}
