// Maps of what speaks for the answer, none without its verdict.

import { h, missed, section } from "./elements.js";
import { VERDICTS, fmt } from "./words.js";

export function drawMaps(pane) {
  const title = "What speaks for the answer";
  const { maps, missing } = pane.sample;
  if (!maps) return section("maps", title, missed(missing.maps));
  const several = new Set(maps.map((map) => map.target)).size > 1;
  const on = (map) => map.values !== null && pane.image.on === `map${map.map}`;
  const verdict = (map) => h("span", { class: `chip ${VERDICTS[map.verdict] ?? ""}` }, map.verdict);
  const list = maps.map((map) => h("button", { type: "button", class: "map", disabled: map.values === null, key: pane.key(`map ${map.map} ${map.method}`),
    "aria-pressed": String(on(map)), onclick: () => pane.viewer.set({ on: `map${map.map}` }) },
    h("span", {}, map.method.replaceAll("_", " "), several ? h("small", { class: "soft" }, map.target) : null), h("span", { class: "soft" }, map.layer === null ? "" : `block ${map.layer}`), verdict(map)));
  const chosen = maps.find(on);
  return section("maps", title, ...list, chosen ? drawChosen(pane, chosen) : null);
}

function drawChosen(pane, map) {
  const mark = (check) => (check.passed === null ? h("td", { class: "soft" }, "no say") : h("td", { class: check.passed ? "good" : "bad" }, check.passed ? "passed" : "failed"));
  const row = (check) => h("tr", {}, h("th", { scope: "row" }, check.check, " ", h("span", { class: "soft" }, check.of)), h("td", {}, fmt(check.value)), h("td", {}, fmt(check.reference)), mark(check));
  const head = h("tr", {}, ...["check", "value", "beside", ""].map((name) => h("th", { scope: "col" }, name)));
  return h("div", { class: "chosen" }, h("p", {}, map.target), h("p", { class: "soft" }, map.note),
    map.checks.length ? pane.folded("checks", `Its report card: ${map.checks.length} checks`, h("table", {}, h("thead", {}, head), h("tbody", {}, ...map.checks.map(row)))) : null);
}
