// One run on the screen: one of its samples, with all that is drawn of it.

import { empty, h } from "./elements.js";
import { drawMaps } from "./maps.js";
import { Picture } from "./picture.js";
import { Sample } from "./sample.js";
import { drawDecides, drawSays } from "./states.js";
import { drawCard, drawUnits } from "./units.js";
import { GROUPS, fmt, plain } from "./words.js";

const PARTS = { says: drawSays, decides: drawDecides, units: drawUnits, card: (pane) => pane.state.unit && drawCard(pane, pane.state.unit), maps: drawMaps };

export class Pane {
  constructor(viewer, run, number) {
    this.viewer = viewer;
    this.run = run;
    this.sample = null;
    this.number = number;
    this.opened = new Set();
    this.root = h("article", { class: "pane", "aria-label": `Run ${run.run}` });
  }

  get state() {
    return this.viewer.state;
  }

  get layer() {
    return Math.min(this.state.layer, this.run.depth);
  }

  // The place that is looked at: a patch, else a token.
  get subject() {
    const patch = this.state.patch === null ? undefined : this.sample.patches.positions[this.state.patch];
    return patch ?? this.state.token;
  }

  key(name) {
    return `${this.number} ${name}`;
  }

  // Where a sample is, as sources are asked, and what is known of it; null where this run does not hold it.
  find(id) {
    const place = this.run.samples.findIndex((sample) => sample.id === id);
    return place < 0 ? { path: null, seen: [] } : { path: `${this.number}/sample/${place}`, seen: this.run.samples[place].seen };
  }

  // Blocks that are looked at and have not come yet.
  get lacks() {
    const unit = this.state.unit === null ? [] : [+this.state.unit.split(".")[0]];
    return this.sample ? [this.layer - 1, ...unit].filter((block) => !this.sample.has(block)) : [];
  }

  async bring() {
    const { sample, path } = this;
    for (const block of this.lacks) sample.put(block, await this.viewer.fetch(`${path}/block/${block}`));
  }

  open(payload, path) {
    this.path = path;
    this.sample = null;
    this.said = "";
    this.buttons = new Map();
    if (!payload || payload.failed) {
      this.root.replaceChildren(this.title(), empty(payload ? `This sample cannot be shown: ${payload.failed}` : "This run does not hold this sample."));
      return;
    }
    this.sample = new Sample(payload);
    this.image = new Picture(this);
    this.parts = Object.fromEntries(Object.keys(PARTS).map((name) => [name, h("div", { class: "part" })]));
    const { says, decides, units, card, maps } = this.parts;
    this.root.replaceChildren(
      this.title(), this.asked(), this.prompt(),
      h("div", { class: "body" }, h("div", { class: "columns" },
        h("div", { class: "column" }, this.image.root, maps),
        h("div", { class: "column" }, says, decides),
        h("div", { class: "column" }, units, card))));
  }

  title() {
    const several = this.viewer.index.length > 1;
    const about = several ? h("h2", {}, h("b", {}, this.run.run), h("span", { class: "soft" }, ` ${this.run.model}`)) : null;
    return h("div", { class: "about" }, about, ...this.run.notes.map((note) => h("p", { class: "note", role: "note" }, note)));
  }

  asked() {
    const { about, gate, swaps, missing } = this.sample;
    const mark = about.correct === true ? h("span", { class: "good" }, "right") : about.correct === false ? h("span", { class: "bad" }, "wrong") : null;
    const truth = about.answer && about.correct !== true ? h("span", { class: "soft" }, `in truth: ${about.answer}`) : null;
    const rests = gate ? h("span", { class: gate.rests ? "good" : "bad" }, gate.rests ? "rests on the image" : "does not rest on the image") : null;
    return h("div", { class: "asked" },
      h("p", { class: "question" }, about.question ?? ""),
      h("p", { class: "answer" }, about.said === null ? h("span", { class: "soft" }, "Its answer is not in this run.") : h("b", {}, about.said), " ", mark, " ", truth, " ", rests),
      gate ? h("p", { class: "soft" }, gate.words) : null,
      swaps ? this.swapped(swaps) : null,
      gate ? null : h("p", { class: "soft" }, "Whether it rests on the image: ", missing.gates.why, " ", h("code", {}, missing.gates.command)));
  }

  swapped(swaps) {
    const row = (swap) => h("tr", {}, h("th", { scope: "row" }, swap.swap), h("td", {}, fmt(swap.before)), h("td", {}, fmt(swap.after)),
      h("td", {}, fmt(swap.shift)), h("td", {}, swap.changed ? "changed" : "as before"));
    const head = h("tr", {}, ...["image in its place", "log-odds with its own", "with the other", "shift", "the answer"].map((name) => h("th", { scope: "col" }, name)));
    return this.folded("swaps", `What other images in its place did: ${swaps.length}`, h("table", {}, h("thead", {}, head), h("tbody", {}, ...swaps.map(row))));
  }

  prompt() {
    const { tokens, patches } = this.sample;
    if (!tokens.length) return h("div", { class: "prompt" });
    const list = tokens.map((token, k) => {
      if (token.group !== "image") return this.token(token, k);
      return tokens[k - 1]?.group === "image" ? null : h("span", { class: "token image" }, `image, ${patches.positions.length} tokens`);
    });
    return h("div", { class: "prompt", role: "group", "aria-label": "Tokens of the prompt and the answer" }, ...list);
  }

  token(token, k) {
    const button = h("button", { type: "button", class: `token ${token.group in GROUPS ? token.group : "template"}`, key: this.key(`token ${k}`),
      title: `${GROUPS[token.group] ?? ""}, token ${k}`, onclick: () => this.viewer.set({ token: k, patch: null }) }, plain(token.text));
    this.buttons.set(k, button);
    return button;
  }

  // Opened and closed by the reader, and as he left it when it is drawn again.
  folded(name, title, ...children) {
    const open = this.opened.has(name);
    const toggle = (event) => (event.currentTarget.open ? this.opened.add(name) : this.opened.delete(name));
    return h("details", { class: name, open, ontoggle: toggle }, h("summary", { key: this.key(`fold ${name}`) }, title), ...children);
  }

  draw() {
    if (!this.sample) return;
    for (const [k, button] of this.buttons) button.setAttribute("aria-pressed", String(k === this.state.token));
    this.image.draw();
    for (const [name, drawn] of Object.entries(PARTS)) this.parts[name].replaceChildren(...[drawn(this)].filter(Boolean));
    const first = this.sample.says(this.subject, this.layer)?.[0];
    this.said = first ? `${this.sample.name(this.subject)} at state ${this.layer}: says ${first.word}, ${fmt(first.p)}. ${this.image.said}` : "";
  }
}
