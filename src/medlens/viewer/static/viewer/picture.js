// The image, and what is laid on it.

import { scaleOf } from "./colours.js";
import { h, s, section } from "./elements.js";
import { VERDICTS, fmt } from "./words.js";

const WRITTEN = 14; // patches in a row, at most, for words to be written on them
let named = 0; // captions, in all viewers of a page

export class Picture {
  constructor(pane) {
    this.pane = pane;
    this.said = "";
    const { picture, patches } = pane.sample;
    this.svg = s("svg", { class: "image", viewBox: "0 0 1000 1000", tabindex: 0, role: "application", preserveAspectRatio: "none",
      "aria-label": `The image in ${patches.boxes.length} patches: arrow keys move between them`, onkeydown: (event) => this.key(event) });
    this.svg.dataset.key = pane.key("image");
    if (picture) this.svg.append(s("image", { href: picture, width: 1000, height: 1000, preserveAspectRatio: "none" }));
    else this.svg.append(s("rect", { width: 1000, height: 1000, class: "no-picture" }));
    this.cells = patches.boxes.map((box, k) => this.cell(box, k));
    const columns = new Set(patches.boxes.filter(Boolean).map((box) => box[0])).size;
    this.letters = columns > 0 && columns <= WRITTEN ? patches.boxes.map((box) => this.letter(box)) : [];
    this.over = s("g", { class: "over" });
    this.svg.append(...this.cells.filter(Boolean), ...this.letters.filter(Boolean), this.over);
    this.bar = h("div", { class: "colours" });
    this.choice = h("div", { class: "choice", role: "group", "aria-label": "What is drawn on the image" });
    this.caption = h("p", { class: "caption", id: `medlens-caption-${(named += 1)}` });
    this.svg.setAttribute("aria-describedby", this.caption.id);
    this.hover = h("p", { class: "hover soft" });
    const notes = [picture ? "" : "This run keeps no picture of it.", patches.note].filter(Boolean);
    this.root = section("picture", "The image", this.choice, picture || patches.boxes.length ? h("div", { class: "frame" }, this.svg) : null, this.bar, this.caption, this.hover, ...notes.map((note) => h("p", { class: "soft" }, note)));
    if (picture) this.fit(picture);
  }

  // A picture is shown in its own proportions.
  fit(picture) {
    const probe = new Image();
    probe.onload = () => (this.svg.style.aspectRatio = `${probe.naturalWidth} / ${probe.naturalHeight}`);
    probe.src = picture;
  }

  cell(box, k) {
    if (!box) return null;
    const [left, top, right, bottom] = box.map((edge) => 1000 * edge);
    return s("rect", { x: left, y: top, width: right - left, height: bottom - top, class: "patch",
      onclick: () => this.pane.viewer.set({ patch: k === this.pane.state.patch ? null : k }), onpointerenter: () => this.point(k), onpointerleave: () => this.point(null) });
  }

  letter(box) {
    if (!box) return null;
    const [left, top, right, bottom] = box.map((edge) => 1000 * edge);
    return s("text", { x: (left + right) / 2, y: (top + bottom) / 2, class: "letter", "data-width": right - left });
  }

  // ---- what is drawn

  layers() {
    const { sample, state } = this.pane;
    const looks = !sample.missing.looks;
    const own = [...(looks ? [["looks", "where it looks"]] : []), ...(sample.lens ? [["words", "what patches say"]] : []), ["none", "image alone"]];
    const maps = (sample.maps ?? []).filter((map) => map.values).map((map) => `map${map.map}`);
    const first = looks || !maps.length ? own[0][0] : maps[0];
    return { own, on: [...own.map(([name]) => name), ...maps].includes(state.on) ? state.on : first };
  }

  content(on) {
    const { pane } = this;
    const { state, sample } = pane;
    if (on === "looks") {
      const block = pane.layer - 1;
      const name = sample.name(state.token);
      if (block < 0) return { words: "State 0 is before the first block: nothing has looked anywhere yet." };
      if (sample.failed(block)) return { words: `Block ${block} cannot be shown: ${sample.failed(block)}.` };
      const found = sample.looks(state.token, block);
      if (!found) return { words: `${name} stands before the image, or is not there: it cannot look at it.` };
      const total = found.weights.reduce((sum, w) => sum + w, 0);
      const sinks = found.sinks.length ? ` ${found.sinks.length === 1 ? "One patch (ringed) draws" : `${found.sinks.length} patches (ringed) draw`} attention whoever looks.` : "";
      return { values: found.weights, but: found.sinks, label: "attention", words: `${name} gives the image ${fmt(total)} of its attention in block ${block}, mean over heads.${sinks} Where a token looks is not why it speaks.` };
    }
    if (on === "words") {
      const said = sample.patches.positions.map((position) => sample.says(position, pane.layer)?.[0] ?? null);
      return { values: said.map((first) => first?.p ?? null), letters: said.map((first) => first?.word ?? ""), label: "p of its word", words: `The likeliest word of each patch at state ${pane.layer}.` };
    }
    const map = (sample.maps ?? []).find((m) => `map${m.map}` === on);
    if (!map) return { words: "" };
    return { values: map.values, label: "for the answer", verdict: map.verdict, words: `${map.method.replaceAll("_", " ")}${map.why ? `: ${map.why}` : ""}` };
  }

  draw() {
    const { viewer, state } = this.pane;
    const { own, on } = this.layers();
    this.on = on;
    this.choice.replaceChildren(...own.map(([name, label]) =>
      h("button", { type: "button", key: this.pane.key(`on ${name}`), "aria-pressed": String(name === on), onclick: () => viewer.set({ on: name }) }, label)));
    const shown = (this.shown = this.content(on));
    const scale = shown.values ? scaleOf(shown.values, shown.but) : null;
    this.cells.forEach((cell, k) => {
      const value = shown.values?.[k] ?? null;
      const [colour, strength] = value === null ? ["none", 0] : scale.paint(value);
      cell?.setAttribute("fill", colour === "none" ? "transparent" : colour);
      cell?.setAttribute("fill-opacity", strength.toFixed(3));
    });
    this.letters.forEach((letter, k) => {
      if (!letter) return;
      const word = (shown.letters?.[k] ?? "").slice(0, 9);
      letter.textContent = word;
      if (word) letter.setAttribute("font-size", Math.min(26, (1.55 * letter.dataset.width) / Math.max(4, word.length)).toFixed(1));
    });
    this.mark(shown.but ?? [], state);
    this.bar.replaceChildren(...(scale ? this.colours(scale, shown.label) : []));
    this.caption.replaceChildren(...(shown.verdict ? [h("span", { class: `chip ${VERDICTS[shown.verdict] ?? ""}` }, shown.verdict), " "] : []), shown.words);
    const best = shown.values ? shown.values.reduce((b, v, k) => (v !== null && !shown.but?.includes(k) && v > (shown.values[b] ?? -Infinity) ? k : b), -1) : -1;
    this.said = best >= 0 ? `Strongest on the image: patch ${best}, ${fmt(shown.values[best])}.` : "";
    this.point(null);
  }

  mark(sinks, state) {
    const { boxes, positions } = this.pane.sample.patches;
    const around = (k, name) => {
      const [left, top, right, bottom] = boxes[k].map((edge) => 1000 * edge);
      return s("rect", { x: left + 3, y: top + 3, width: Math.max(1, right - left - 6), height: Math.max(1, bottom - top - 6), class: name });
    };
    const ring = (k) => {
      const [left, top, right, bottom] = boxes[k].map((edge) => 1000 * edge);
      return s("ellipse", { cx: (left + right) / 2, cy: (top + bottom) / 2, rx: 0.36 * (right - left), ry: 0.36 * (bottom - top), class: "sink" });
    };
    const fires = state.unit ? this.pane.sample.places(state.unit) : new Map();
    const there = (k) => Boolean(boxes[k]);
    this.over.replaceChildren(
      ...sinks.filter(there).map(ring),
      ...positions.map((position, k) => [position, k]).filter(([position, k]) => fires.has(position) && there(k)).map(([, k]) => around(k, "fires")),
      ...(state.patch !== null && there(state.patch) ? [around(state.patch, "chosen")] : []));
  }

  colours(scale, label) {
    const steps = 24;
    const at = (k) => scale.low + ((k + 0.5) / steps) * (scale.high - scale.low);
    const cells = [...Array(steps).keys()].map((k) => {
      const [colour, strength] = scale.paint(at(k));
      return s("rect", { x: k * 10, y: 0, width: 10.5, height: 10, fill: colour, "fill-opacity": strength });
    });
    return [h("span", {}, fmt(scale.low)), s("svg", { viewBox: `0 0 ${steps * 10} 10`, preserveAspectRatio: "none", "aria-hidden": "true" }, ...cells), h("span", {}, fmt(scale.high)), h("span", { class: "soft" }, label)];
  }

  // What stands under the pointer; of the chosen patch, where there is none.
  point(k) {
    const { pane } = this;
    const at = k ?? pane.state.patch;
    if (at === null || !this.cells[at]) {
      this.hover.textContent = pane.sample.lens || !pane.sample.missing.fires ? "Click a patch for its words and units." : "";
      return;
    }
    const said = pane.sample.says(pane.sample.patches.positions[at], pane.layer)?.[0];
    const value = this.shown.values?.[at];
    this.hover.textContent = [`patch ${at}`, value === undefined || value === null ? "" : `${this.shown.label} ${fmt(value)}`, said ? `says “${said.word}” ${fmt(said.p)}` : ""].filter(Boolean).join(" · ");
  }

  key(event) {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!way || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const { boxes } = this.pane.sample.patches;
    const middle = (box) => [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2];
    const from = this.pane.state.patch;
    if (from === null || !boxes[from]) return this.pane.viewer.set({ patch: Math.max(0, boxes.findIndex(Boolean)) });
    const [x, y] = middle(boxes[from]);
    let [best, least] = [from, Infinity];
    boxes.forEach((box, k) => {
      if (!box || k === from) return;
      const [dx, dy] = [middle(box)[0] - x, middle(box)[1] - y];
      const along = dx * way[0] + dy * way[1];
      const across = Math.abs(dx * way[1]) + Math.abs(dy * way[0]);
      if (along > 1e-6 && along + 3 * across < least) [best, least] = [k, along + 3 * across];
    });
    this.pane.viewer.set({ patch: best });
  }
}
