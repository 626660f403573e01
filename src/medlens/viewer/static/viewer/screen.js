// The whole screen: what is looked at, in one run or two.
//
// The state (sample, token, patch, layer, unit, what is on the image) is one, and everything is drawn from it, as soon as the
// blocks that it looks at have come.

import { h } from "./elements.js";
import { Pane } from "./pane.js";
import { clamp } from "./words.js";

const LAYERED = ["lens", "decisions", "looks", "fires"]; // what the slider goes through
const BY_BLOCK = ["looks", "fires"];
const KEYS = "← → token · ↑ ↓ state · Page Up, Page Down sample · on the image: arrows move between patches · Esc lets go";
const AROUND = 5; // states
const KEPT = 100; // pieces
const CALM = 50; // ms without anything new: browsers count how often the address is written

export class Viewer {
  constructor(element, source) {
    this.root = h("div", { class: "medlens-viewer", tabindex: "-1" }, h("p", { class: "soft" }, "Waiting for the run."));
    this.source = source;
    this.kept = new Map();
    this.state = { run: "both", sample: null, token: null, patch: null, layer: null, unit: null, on: "looks" };
    element.append(this.root);
  }

  async begin() {
    try {
      this.index = await this.source.piece("index");
    } catch (e) {
      this.root.replaceChildren(h("p", { class: "empty", role: "alert" }, `Nothing can be shown: ${e.message}`));
      return;
    }
    this.depth = Math.max(...this.index.map((run) => run.depth));
    this.ids = [...new Set(this.index.flatMap((run) => run.samples.map((sample) => sample.id)))];
    this.panes = this.index.map((run, k) => new Pane(this, run, k));
    this.frame();
    (this.source.linked ? document : this.root).addEventListener("keydown", (event) => this.key(event));
    if (this.source.linked) addEventListener("hashchange", () => this.restore());
    await this.restore();
  }

  frame() {
    const every = this.index.flatMap((run) => run.samples);
    const several = this.index.length > 1;
    const step = (by, label, sign) => h("button", { type: "button", "aria-label": label, onclick: () => this.step(by) }, sign);
    this.picker = h("select", { "aria-label": "Sample", onchange: () => this.open(this.picker.value) }, ...this.options());
    this.slider = h("input", {
      type: "range", min: 0, max: this.depth, step: 1, "aria-label": "State of the model",
      oninput: () => this.set({ layer: +this.slider.value }),
    });
    this.where = h("output", { class: "where" });
    this.live = h("p", { class: "unseen", "aria-live": "polite" });
    this.which = h("div", { class: "which", role: "group", "aria-label": "Which run" });
    const title = this.index.map((run) => run.model).filter((name, k, all) => all.indexOf(name) === k).join(" · ");
    this.root.replaceChildren(
      h("header", { class: "top" },
        h("div", { class: "title" }, h("h2", {}, "Inside ", h("b", {}, title)), several ? this.which : h("span", { class: "soft" }, this.index[0].run)),
        h("div", { class: "pick" }, step(-1, "Previous sample", "‹"), this.picker, step(1, "Next sample", "›")),
        h("div", { class: "layer", hidden: !every.some((sample) => sample.seen.some((table) => LAYERED.includes(table))) }, this.slider, this.where)),
      h("div", { class: "panes", "data-count": this.index.length }, ...this.panes.map((pane) => pane.root)),
      h("footer", { class: "soft" }, KEYS),
      this.live,
    );
  }

  options() {
    const every = this.index.flatMap((run) => run.samples);
    const asked = new Map(every.map((sample) => [sample.id, sample.question]));
    const most = new Map();
    for (const { id, seen } of every) most.set(id, (most.get(id) ?? 0) + (seen.includes("looks") ? seen.length : 0));
    this.ids.sort((a, b) => most.get(b) - most.get(a)); // of which most is known; stable
    const listed = (wanted) => this.ids.filter((id) => most.get(id) > 0 === wanted).map((id) => h("option", { value: id }, `${asked.get(id) ?? ""}  ·  ${id}`));
    const [first, rest] = [listed(true), listed(false)];
    if (!first.length || !rest.length) return [...first, ...rest];
    return [h("optgroup", { label: "Token by token" }, ...first), h("optgroup", { label: "Others" }, ...rest)];
  }

  // ---- what comes

  // The pieces of a sample that are needed at a state, by their paths.
  paths(id, layer) {
    return this.panes.flatMap((pane) => {
      const { path, seen } = pane.find(id);
      if (path === null) return [];
      const block = Math.min(layer, pane.run.depth) - 1;
      return block >= 0 && BY_BLOCK.some((table) => seen.includes(table)) ? [path, `${path}/block/${block}`] : [path];
    });
  }

  // A piece, or why there is none. What was asked for last is kept.
  async fetch(path) {
    const piece = this.kept.get(path) ?? this.source.piece(path);
    this.kept.delete(path);
    this.kept.set(path, piece);
    if (this.kept.size > KEPT) this.kept.delete(this.kept.keys().next().value);
    try {
      return await piece;
    } catch (e) {
      this.kept.delete(path);
      return { failed: e.message };
    }
  }

  // The blocks that are looked at by now, however often that changes while some are on their way.
  async complete() {
    if (this.completing) return;
    this.completing = true;
    this.root.setAttribute("aria-busy", "true");
    while (this.panes.some((pane) => pane.lacks.length)) await Promise.all(this.panes.map((pane) => pane.bring()));
    this.completing = false;
    this.draw();
  }

  // What may be wanted next is asked for, one after the other, until something else is looked at: the states around this one, the
  // samples around this one, all other states.
  async foresee() {
    const { sample, layer } = this.state;
    const seeing = (this.seeing = Symbol(sample));
    const place = this.ids.indexOf(sample);
    const states = [...Array(this.depth).keys()].map((block) => [sample, block + 1]).sort(([, a], [, b]) => Math.abs(a - layer) - Math.abs(b - layer));
    const samples = [this.ids[place + 1], this.ids[place - 1]].filter(Boolean).map((id) => [id, layer]);
    for (const [id, state] of [...states.slice(0, AROUND), ...samples, ...states.slice(AROUND)]) {
      await Promise.all(this.paths(id, state).map((path) => this.fetch(path)));
      if (seeing !== this.seeing) return;
    }
  }

  // ---- what is looked at

  async restore() {
    const said = this.source.linked ? Object.fromEntries(new URLSearchParams(location.hash.slice(1))) : {};
    const number = (text) => (/^\d{1,7}$/.test(text ?? "") ? +text : null);
    const wanted = { token: number(said.token), patch: number(said.patch), layer: number(said.layer) };
    const unit = /^\d+\.\d+$/.test(said.unit ?? "") ? said.unit : null;
    const run = ["0", "1"].includes(said.run) && +said.run < this.index.length ? said.run : "both";
    await this.open(this.ids.includes(said.sample) ? said.sample : this.ids[0], { ...wanted, unit, run, on: said.on ?? "looks" });
  }

  async open(id, wanted = {}) {
    const opening = (this.opening = Symbol(id));
    const layer = clamp(wanted.layer ?? this.state.layer ?? this.depth, 0, this.depth);
    this.root.setAttribute("aria-busy", "true");
    await Promise.all(this.paths(id, layer).map((path) => this.fetch(path)));
    const payloads = await Promise.all(this.panes.map((pane) => pane.find(id).path).map((path) => path && this.fetch(path)));
    if (opening !== this.opening) return; // another one was chosen meanwhile
    this.picker.value = id;
    this.panes.forEach((pane, k) => pane.open(payloads[k], pane.find(id).path));
    const token = wanted.token ?? this.panes.map((pane) => pane.sample?.predicts ?? null).find((place) => place !== null) ?? null;
    this.set({ sample: id, unit: null, patch: null, ...wanted, token, layer });
  }

  step(by) {
    const place = this.ids.indexOf(this.state.sample) + by;
    if (place >= 0 && place < this.ids.length) this.open(this.ids[place]);
  }

  set(changes) {
    Object.assign(this.state, changes);
    const state = this.state.layer;
    this.slider.value = state;
    this.where.textContent = state === 0 ? "state 0, before the first block" : `state ${state} of ${this.depth}, behind block ${state - 1}`;
    this.slider.setAttribute("aria-valuetext", this.where.textContent);
    if (this.panes.some((pane) => pane.lacks.length)) void this.complete();
    else if (!this.completing) this.draw();
  }

  draw() {
    const focused = this.root.getRootNode().activeElement?.dataset?.key;
    this.choose();
    for (const pane of this.panes) pane.draw();
    if (focused) [...this.root.querySelectorAll("[data-key]")].find((x) => x.dataset.key === focused)?.focus({ preventScroll: true });
    this.live.textContent = this.panes.map((pane) => pane.said).filter(Boolean).join(" ");
    this.root.removeAttribute("aria-busy");
    clearTimeout(this.calm);
    this.calm = setTimeout(() => this.after(), CALM);
  }

  choose() {
    if (this.index.length < 2) return;
    const names = [["0", this.index[0].run], ["1", this.index[1].run], ["both", "side by side"]];
    this.which.replaceChildren(
      ...names.map(([run, name]) =>
        h("button", { type: "button", key: `run ${run}`, "aria-pressed": String(this.state.run === run), onclick: () => this.set({ run }) }, name)),
    );
    this.panes.forEach((pane, k) => (pane.root.hidden = !["both", String(k)].includes(this.state.run)));
    this.root.querySelector(".panes").dataset.count = this.state.run === "both" ? 2 : 1;
  }

  after() {
    if (this.source.linked) this.remember();
    void this.foresee();
  }

  remember() {
    const said = new URLSearchParams();
    for (const [name, value] of Object.entries(this.state)) if (value !== null && value !== undefined) said.set(name, value);
    history.replaceState(null, "", `#${said}`);
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (event.target.closest?.("select, input, textarea, summary")) return;
    const tokens = this.panes.find((pane) => pane.sample?.spoken.length)?.sample.spoken ?? [];
    const at = tokens.indexOf(this.state.token);
    const { layer } = this.state;
    const act = {
      ArrowLeft: () => at > 0 && this.set({ token: tokens[at - 1], patch: null }),
      ArrowRight: () => at < tokens.length - 1 && this.set({ token: tokens[at + 1], patch: null }),
      ArrowUp: () => this.set({ layer: Math.min(this.depth, layer + 1) }),
      ArrowDown: () => this.set({ layer: Math.max(0, layer - 1) }),
      PageUp: () => this.step(-1),
      PageDown: () => this.step(1),
      Escape: () => this.set({ patch: null, unit: null }),
    }[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  }
}
