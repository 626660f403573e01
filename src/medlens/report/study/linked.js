// One layer, marked in every chart, and its words shown: by pointing at it, by the slider, or by arrow keys on a chart. Escape takes
// the mark away.
"use strict";
const slider = document.getElementById("layer"), said = document.getElementById("layer-said");
let marked = [];
function mark(layer) {
  for (const old of marked) old.classList.remove("on");
  marked = layer === null ? [] : [...document.querySelectorAll('.at[data-layer="' + layer + '"]')];
  for (const one of marked) one.classList.add("on");
  said.textContent = layer === null ? "–" : layer;
  if (layer === null) return;
  slider.value = layer;
  for (const words of document.querySelectorAll('.states input[id$="-' + layer + '"]')) words.checked = true;
}
slider.closest("label").hidden = false;
slider.addEventListener("input", () => mark(Number(slider.value)));
document.addEventListener("pointerover", (event) => {
  const at = event.target.closest ? event.target.closest(".at") : null;
  if (at) mark(Number(at.dataset.layer));
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") mark(null);
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (step === undefined || !event.target.matches("svg[role=img]")) return;
  event.preventDefault();
  const from = said.textContent === "–" ? -1 : Number(said.textContent);
  mark(Math.min(Math.max(from + step, 0), Number(slider.max)));
});
for (const chart of document.querySelectorAll("svg[role=img]")) if (chart.querySelector(".at")) chart.setAttribute("tabindex", "0");
