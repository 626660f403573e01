// Units: those that write most at a place, and one of them with all that is known of it.

import { empty, h, missed, section } from "./elements.js";
import { count, fmt, plain } from "./words.js";

export function drawUnits(pane) {
  const title = "Units that write most here";
  const { sample } = pane;
  const cards = [...new Set(same(pane).flatMap((run) => Object.keys(run.cards)))];
  const named = cards.length ? pane.folded("named", `Units with a card: ${cards.length}`, ...cards.map((unit) => line(pane, unit))) : null;
  if (sample.missing.fires) return section("units", title, missed(sample.missing.fires), named);
  const block = pane.layer - 1;
  if (block < 0) return section("units", title, empty("State 0 is before the first block: no unit has written yet."), named);
  if (sample.failed(block)) return section("units", title, empty(`Block ${block} cannot be shown: ${sample.failed(block)}.`), named);
  const found = sample.fires(pane.subject, block);
  const most = Math.max(...found.map(({ value }) => Math.abs(value)), 1e-12);
  return section("units", title,
    h("p", { class: "soft" }, `At ${sample.name(pane.subject)}, in block ${block}, by |activation| × length of what they write; and the words that this raises.`),
    ...found.map(({ unit, value }) => line(pane, unit, value, most)), found.length ? null : empty("None is known here."), named);
}

function line(pane, unit, value, most) {
  const bar = h("i", { class: `bar ${value < 0 ? "below" : ""}` });
  if (value !== undefined) bar.style.width = `${(100 * Math.abs(value)) / most}%`;
  const chosen = unit === pane.state.unit;
  const words = written(pane, unit, value < 0 ? "lowers" : "raises").slice(0, 4).join(", "); // below 0 it writes the other way round
  return h("button", { type: "button", class: "unit", key: pane.key(`unit ${unit}`), "aria-pressed": String(chosen),
    "aria-label": `Unit ${unit}${value === undefined ? "" : `, activation ${fmt(value)}`}, raises ${words}`,
    onclick: () => pane.viewer.set({ unit: chosen ? null : unit }) },
    h("span", { class: "number" }, unit), value === undefined ? null : h("span", { class: "value" }, bar, h("span", {}, fmt(value))), h("span", { class: "rest" }, words));
}

// What it raises or lowers: of the sample where it fires there, else of its card.
function written(pane, unit, way) {
  return pane.sample.written(unit, way) ?? (cardsOf(pane, unit)[0]?.[way] ?? []).map(plain);
}

// The runs that are of the same model, this one among them: what one knows of a unit holds in the other.
function same(pane) {
  return pane.viewer.index.filter((run) => run === pane.run || (run.fingerprint && run.fingerprint === pane.run.fingerprint));
}

function cardsOf(pane, unit) {
  return same(pane).flatMap((run) => run.cards[unit] ?? []);
}

export function drawCard(pane, unit) {
  const { sample } = pane;
  const places = [...sample.places(unit)].filter(([position]) => sample.tokens[position]);
  const patches = places.filter(([position]) => sample.tokens[position].group === "image");
  const texts = places.filter(([position]) => sample.tokens[position].group !== "image");
  const terms = (label, words, kind) => [h("dt", {}, label), h("dd", { class: kind }, words.length ? words.join(", ") : "not known")];
  const where = texts.map(([position, value]) =>
    h("button", { type: "button", class: "token", key: pane.key(`at ${position}`), title: `activation ${fmt(value)}`,
      onclick: () => pane.viewer.set({ token: position, patch: null }) }, plain(sample.tokens[position].text)));
  const cards = cardsOf(pane, unit).map((card) => h("div", { class: "looked" },
    h("p", {}, h("b", {}, card.concept), " ", h("span", { class: "chip" }, card.verdict)),
    h("p", { class: "soft" }, card.note ?? ""),
    h("div", { class: "pictures" }, ...card.pictures.map((src) => h("img", { src, alt: `where unit ${unit} is most active` })))));
  return section("unit-card", `Unit ${unit}`,
    h("dl", {}, ...terms("raises", written(pane, unit, "raises"), "up"), ...terms("lowers", written(pane, unit, "lowers"), "down")),
    h("p", { class: "soft" }, `In this sample it is among those that write most at ${count(patches.length, "patch", "patches")}, outlined on the image, and ${count(texts.length, "other token", "other tokens")}. Where its activation is below 0, it raises what it lowers.`),
    h("div", { class: "prompt" }, ...where),
    ...(cards.length ? cards : [empty("No card: medlens neurons MODEL DATA tests whether single units matter.")]));
}
