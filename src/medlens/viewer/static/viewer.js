// One screen on a run: an image, its question and answer, token by token and block by block.
//
// mount(element, source) draws it; a source says where data come from: served() asks the server that the page is from, inside()
// reads what stands in the page, asked() asks a notebook. What comes from data or model is only ever set as text.

const SVG = "http://www.w3.org/2000/svg";
const VIRIDIS = ["440154", "482878", "3e4a89", "31688e", "26828e", "1f9e89", "35b779", "6ece58", "b5de2b", "fde725"];
const DIVERGING = ["053061", "2166ac", "4393c3", "92c5de", "d1e5f0", "f7f7f7", "fddbc7", "f4a582", "d6604d", "b2182b", "67001f"];
const FINEST = 65535; // steps of a weight, see packing.py
const WRITTEN = 14; // patches in a row, at most, for words to be written on them
const GROUPS = { image: "image", text: "question", template: "template", answer: "answer" };
const LAYERED = ["lens", "decisions", "looks", "fires"]; // what the slider goes through
const VERDICTS = { trust: "good", "do not trust": "bad" };
let named = 0; // captions, in all viewers of a page
const KEYS = "← → token · ↑ ↓ state · Page Up, Page Down sample · on the image: arrows move between patches · Esc lets go";

// ---- where data come from

export function served() {
  const get = async (path) => {
    const found = await fetch(path, { credentials: "same-origin" });
    if (!found.ok) throw new Error(await found.text());
    return found.json();
  };
  return {
    linked: true,
    index: () => get("/data/index.json"),
    sample: (run, place) => get(`/data/${run}/sample/${place}.json`),
  };
}

export function inside(element) {
  const data = JSON.parse(element.querySelector("script").textContent);
  return { linked: false, index: async () => data.index, sample: async (run, place) => data.samples[run][place] };
}

export function asked(model) {
  const waiting = new Map();
  model.on("msg:custom", ({ run, sample, payload }) => {
    waiting.get(`${run}.${sample}`)?.(payload);
    waiting.delete(`${run}.${sample}`);
  });
  return {
    linked: false,
    index: async () => model.get("index"),
    sample: (run, place) =>
      new Promise((done) => {
        waiting.set(`${run}.${place}`, done);
        model.send({ run, sample: place });
      }),
  };
}

export async function mount(element, source) {
  const viewer = new Viewer(element, source);
  await viewer.begin();
  return viewer;
}

export default { render: ({ model, el }) => void mount(el, asked(model)) };

// ---- elements

function made(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "key") node.dataset.key = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}
const h = (tag, attributes, ...children) => made(document.createElement(tag), attributes, children);
const s = (tag, attributes, ...children) => made(document.createElementNS(SVG, tag), attributes, children);
const section = (name, title, ...children) => h("section", { class: `card ${name}`, "aria-label": title }, h("h3", {}, title), ...children);
const empty = (words) => h("p", { class: "empty" }, words);
const missed = ({ why, command }) => h("p", { class: "empty" }, why, " ", h("code", {}, command));

// ---- numbers, words, colours

const plain = (word) => (word ?? "").replace(/^[▁Ġ]+/, "").replace(/^\s+$/, "") || "␣";
const fmt = (x) => (x === null || x === undefined ? "–" : x === 0 ? "0" : Math.abs(x) < 0.001 ? x.toExponential(1) : String(+x.toPrecision(3)));
const count = (n, one, more) => `${n} ${n === 1 ? one : more}`;
const clamp = (x, low, high) => Math.min(high, Math.max(low, x));

// Numbers that were packed one after the other, see packing.py.
const unpacked = (text, Kind) => new Kind(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);

function mix(stops, share) {
  const at = clamp(share, 0, 1) * (stops.length - 1);
  const k = Math.min(stops.length - 2, Math.floor(at));
  const part = (stop, i) => parseInt(stop.slice(2 * i, 2 * i + 2), 16);
  return `rgb(${[0, 1, 2].map((i) => Math.round(part(stops[k], i) + (at - k) * (part(stops[k + 1], i) - part(stops[k], i)))).join(",")})`;
}

// Colours of some values: from 0 to the largest, or, where some are below 0, the same to both sides of it. but: places that have no
// say in the largest.
function scaleOf(values, but = []) {
  const known = values.filter((v, k) => v !== null && !but.includes(k));
  const most = Math.max(...known.map(Math.abs), 0);
  const signed = known.some((v) => v < 0);
  const low = signed ? -most : 0;
  const share = (v) => (most === 0 ? 0 : signed ? (v / most + 1) / 2 : v / most);
  const strength = (v) => (most === 0 ? 0 : clamp(Math.abs(v) / most, 0, 1));
  return { low, high: most, paint: (v) => [mix(signed ? DIVERGING : VIRIDIS, share(v)), 0.2 + 0.6 * strength(v)] };
}

// ---- the whole

class Viewer {
  constructor(element, source) {
    this.root = h("div", { class: "medlens-viewer", tabindex: "-1" });
    this.source = source;
    this.kept = new Map();
    this.state = { run: "both", sample: null, token: null, patch: null, layer: null, unit: null, on: "looks" };
    element.append(this.root);
  }

  async begin() {
    try {
      this.index = await this.source.index();
    } catch (e) {
      this.root.append(h("p", { class: "empty", role: "alert" }, `Nothing can be shown: ${e.message}`));
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
    this.root.setAttribute("aria-busy", "true");
    const payloads = await Promise.all(this.index.map((run, k) => this.fetch(run, k, id)));
    if (opening !== this.opening) return; // another one was chosen meanwhile
    this.root.removeAttribute("aria-busy");
    this.picker.value = id;
    this.panes.forEach((pane, k) => pane.open(payloads[k]));
    const layer = wanted.layer ?? this.state.layer ?? this.depth;
    const token = wanted.token ?? this.panes.map((pane) => pane.predicts).find((place) => place !== null) ?? null;
    this.set({ sample: id, unit: null, patch: null, ...wanted, token, layer: clamp(layer, 0, this.depth) });
    setTimeout(() => this.foresee(this.ids.indexOf(id)));
  }

  // The next samples are asked for before they are wanted.
  foresee(place) {
    for (const id of [this.ids[place + 1], this.ids[place - 1]].filter(Boolean)) this.index.forEach((run, k) => void this.fetch(run, k, id));
  }

  async fetch(run, k, id) {
    const place = run.samples.findIndex((sample) => sample.id === id);
    if (place < 0) return null;
    const name = `${k}.${place}`;
    try {
      if (!this.kept.has(name)) this.kept.set(name, this.source.sample(k, place));
      return await this.kept.get(name);
    } catch (e) {
      this.kept.delete(name);
      return { failed: e.message };
    }
  }

  step(by) {
    const place = this.ids.indexOf(this.state.sample) + by;
    if (place >= 0 && place < this.ids.length) this.open(this.ids[place]);
  }

  set(changes) {
    Object.assign(this.state, changes);
    const focused = this.root.getRootNode().activeElement?.dataset?.key;
    this.slider.value = this.state.layer;
    const state = this.state.layer;
    this.where.textContent = state === 0 ? "state 0, before the first block" : `state ${state} of ${this.depth}, behind block ${state - 1}`;
    this.slider.setAttribute("aria-valuetext", this.where.textContent);
    this.choose();
    for (const pane of this.panes) pane.draw();
    if (focused) [...this.root.querySelectorAll("[data-key]")].find((x) => x.dataset.key === focused)?.focus({ preventScroll: true });
    this.live.textContent = this.panes.map((pane) => pane.said).filter(Boolean).join(" ");
    if (this.source.linked) this.remember();
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

  remember() {
    const said = new URLSearchParams();
    for (const [name, value] of Object.entries(this.state)) if (value !== null && value !== undefined) said.set(name, value);
    history.replaceState(null, "", `#${said}`);
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (event.target.closest?.("select, input, textarea, summary")) return;
    const tokens = this.panes.find((pane) => pane.tokens.length)?.tokens ?? [];
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

// ---- one run

class Pane {
  constructor(viewer, run, number) {
    this.viewer = viewer;
    this.run = run;
    this.number = number;
    this.tokens = [];
    this.predicts = null;
    this.opened = new Set();
    this.root = h("article", { class: "pane", "aria-label": `Run ${run.run}` });
  }

  get state() {
    return this.viewer.state;
  }

  key(name) {
    return `${this.number} ${name}`;
  }

  open(payload) {
    this.payload = payload;
    this.decoded = new Map();
    this.tokens = [];
    this.predicts = null;
    this.said = "";
    if (!payload || payload.failed) {
      this.root.replaceChildren(this.title(), empty(payload ? `This sample cannot be shown: ${payload.failed}` : "This run does not hold this sample."));
      return;
    }
    this.unpack();
    payload.tokens.forEach((token, k) => token.group !== "image" && this.tokens.push(k));
    const answer = payload.tokens.findIndex((token) => token.group === "answer");
    this.predicts = answer > 0 ? answer - 1 : (this.tokens.at(-1) ?? null);
    this.image = new Picture(this);
    this.parts = Object.fromEntries(["says", "decides", "units", "card", "maps"].map((name) => [name, h("div", { class: "part" })]));
    const { says, decides, units, card, maps } = this.parts;
    this.root.replaceChildren(
      this.title(), this.asked(), this.prompt(),
      h("div", { class: "body" }, h("div", { class: "columns" },
        h("div", { class: "column" }, this.image.root, maps),
        h("div", { class: "column" }, says, decides),
        h("div", { class: "column" }, units, card))));
  }

  unpack() {
    const { lens, fires, units } = this.payload;
    this.likely = lens && { words: unpacked(lens.words, Int32Array), p: unpacked(lens.p, Float32Array) };
    this.firing = fires && { units: unpacked(fires.units, Int32Array), activations: unpacked(fires.activations, Float32Array) };
    this.rows = new Map(units?.units.map((unit, k) => [`${units.layers[k]}.${unit}`, k]));
    this.way = units && { raises: unpacked(units.raises.words, Int32Array), lowers: unpacked(units.lowers.words, Int32Array) };
  }

  title() {
    const several = this.viewer.index.length > 1;
    const about = several ? h("h2", {}, h("b", {}, this.run.run), h("span", { class: "soft" }, ` ${this.run.model}`)) : null;
    return h("div", { class: "about" }, about, ...this.run.notes.map((note) => h("p", { class: "note", role: "note" }, note)));
  }

  asked() {
    const { about, gate, swaps, missing } = this.payload;
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
    const { tokens } = this.payload;
    if (!tokens.length) return h("div", { class: "prompt" });
    const list = [];
    this.buttons = new Map();
    tokens.forEach((token, k) => {
      if (token.group === "image") {
        if (tokens[k - 1]?.group !== "image") list.push(h("span", { class: "token image" }, `image, ${this.payload.patches.positions.length} tokens`));
        return;
      }
      const button = h("button", { type: "button", class: `token ${token.group in GROUPS ? token.group : "template"}`, key: this.key(`token ${k}`),
        title: `${GROUPS[token.group] ?? ""}, token ${k}`, onclick: () => this.viewer.set({ token: k, patch: null }) }, plain(token.text));
      this.buttons.set(k, button);
      list.push(button);
    });
    return h("div", { class: "prompt", role: "group", "aria-label": "Tokens of the prompt and the answer" }, ...list);
  }

  // ---- what is where

  get layer() {
    return Math.min(this.state.layer, this.run.depth);
  }

  get subject() {
    const patch = this.payload.patches.positions[this.state.patch];
    return this.state.patch !== null && patch !== undefined ? patch : this.state.token;
  }

  name(position) {
    const token = this.payload.tokens[position];
    if (!token) return "nothing";
    const patch = this.payload.patches.positions.indexOf(position);
    return patch >= 0 ? `patch ${patch}` : `“${plain(token.text)}”`;
  }

  says(position, state) {
    const { lens, words } = this.payload;
    const k = lens ? lens.states.indexOf(state) : -1;
    if (k < 0 || position === null || position >= lens.count) return null;
    const begin = (k * lens.count + position) * lens.each;
    const found = [...this.likely.words.subarray(begin, begin + lens.each)].filter((word) => word >= 0);
    return found.length ? found.map((word, i) => ({ word: plain(words[word]), p: this.likely.p[begin + i] })) : null;
  }

  // The weights that a token gives each patch in a block, and the block's sinks; null where that is not known.
  looks(position, block) {
    const found = this.payload.looks?.blocks.find((b) => b.block === block);
    const row = found ? found.positions.indexOf(position) : -1;
    if (row < 0) return null;
    if (!this.decoded.has(block)) {
      this.decoded.set(block, unpacked(found.weights, Uint16Array));
    }
    const { count } = this.payload.looks;
    const steps = this.decoded.get(block).subarray(row * count, (row + 1) * count);
    return { weights: [...steps].map((step) => (step / FINEST) * found.largest[row]), sinks: found.sinks };
  }

  fires(position, block) {
    const { fires } = this.payload;
    const k = fires ? fires.blocks.indexOf(block) : -1;
    if (k < 0 || position === null || position >= fires.count) return [];
    const begin = (k * fires.count + position) * fires.each;
    const units = [...this.firing.units.subarray(begin, begin + fires.each)].filter((unit) => unit >= 0);
    return units.map((unit, i) => ({ unit: `${block}.${unit}`, value: this.firing.activations[begin + i] }));
  }

  // Where in this sample a unit is among those that write most: by position, its activation.
  places(unit) {
    const [block, number] = unit.split(".").map(Number);
    const { fires } = this.payload;
    const k = fires ? fires.blocks.indexOf(block) : -1;
    const found = new Map();
    const size = k < 0 ? 0 : fires.count * fires.each;
    for (let i = k * size; i < (k + 1) * size; i++)
      if (this.firing.units[i] === number) found.set(Math.floor((i - k * size) / fires.each), this.firing.activations[i]);
    return found;
  }

  // ---- drawing

  draw() {
    if (!this.payload || this.payload.failed) return;
    for (const [k, button] of this.buttons ?? []) button.setAttribute("aria-pressed", String(k === this.state.token));
    this.image.draw();
    this.parts.says.replaceChildren(this.drawSays());
    this.parts.decides.replaceChildren(this.drawDecides());
    this.parts.units.replaceChildren(this.drawUnits());
    this.parts.card.replaceChildren(...[this.state.unit && this.drawCard(this.state.unit)].filter(Boolean));
    this.parts.maps.replaceChildren(this.drawMaps());
    const first = this.says(this.subject, this.layer)?.[0];
    this.said = first ? `${this.name(this.subject)} at state ${this.layer}: says ${first.word}, ${fmt(first.p)}. ${this.image.said}` : "";
  }

  drawSays() {
    const { lens, missing } = this.payload;
    const title = "What it would say, state by state";
    if (!lens) return section("says", title, missed(missing.lens));
    const position = this.subject;
    const rows = [...lens.states].reverse().map((state) => {
      const said = this.says(position, state);
      const [first, ...rest] = said ?? [];
      const others = rest.map(({ word, p }) => h("span", { title: fmt(p) }, word));
      const bar = first ? h("i", { class: "bar" }) : null;
      if (bar) bar.style.width = `${100 * first.p}%`;
      return h("button", { type: "button", class: "state", key: this.key(`state ${state}`), "aria-pressed": String(state === this.layer),
        "aria-label": first ? `State ${state}: ${said.map(({ word, p }) => `${word} ${fmt(p)}`).join(", ")}` : `State ${state}: nothing`,
        onclick: () => this.viewer.set({ layer: state }) },
        h("span", { class: "number" }, String(state)), h("span", { class: "first" }, bar, h("span", {}, first?.word ?? "–")),
        h("span", { class: "p" }, first ? first.p.toFixed(2) : ""), h("span", { class: "rest" }, ...others));
    });
    return section("says", title, h("p", { class: "soft" }, `Behind ${this.name(position)}, the likeliest next words by the lens.`), h("div", { class: "states" }, ...rows));
  }

  drawDecides() {
    const { decisions, missing, words } = this.payload;
    const title = "How the answer comes about";
    if (!decisions) return section("decides", title, missed(missing.decisions));
    const known = decisions.filter((d) => d.log_odds !== null);
    const odds = known.map((d) => d.log_odds);
    const [low, high] = [Math.min(0, ...odds), Math.max(0, ...odds)];
    const last = Math.max(1, ...known.map((d) => d.layer));
    const [width, height] = [320, 120];
    const x = (state) => 8 + (state / last) * (width - 16);
    const y = (value) => 8 + ((high - value) / (high - low || 1)) * (height - 16);
    const path = known.map((d, k) => `${k ? "L" : "M"}${x(d.layer).toFixed(1)},${y(d.log_odds).toFixed(1)}`).join("");
    const now = decisions.find((d) => d.layer === this.layer);
    const first = decisions.find((d, k) => decisions.slice(k).every((later) => later.rank === 1));
    const dots = known.map((d) => s("circle", { cx: x(d.layer), cy: y(d.log_odds), r: d === now ? 4.5 : 2.2, class: d.rank === 1 ? "first" : "" }));
    const chart = s("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Log-odds of ${plain(decisions[0].word)} at every state, from ${fmt(odds[0])} to ${fmt(odds.at(-1))}` },
      s("line", { x1: 0, x2: width, y1: y(0), y2: y(0), class: "zero" }),
      now ? s("line", { x1: x(now.layer), x2: x(now.layer), y1: 0, y2: height, class: "now" }) : null,
      s("path", { d: path }), ...dots);
    const said = now ? `At state ${now.layer}: log-odds ${fmt(now.log_odds)}, p ${fmt(now.p)}, rank ${now.rank.toLocaleString("en")}.` : "";
    return section("decides", title,
      h("p", { class: "soft" }, `Log-odds of “${plain(decisions[0].word)}”, the answer's first token. ${first ? `The likeliest word from state ${first.layer} on.` : "Not the likeliest word at the last state."}`),
      chart, h("p", { class: "number-line" }, said));
  }

  drawUnits() {
    const title = "Units that write most here";
    const { missing, fires } = this.payload;
    const cards = [...new Set(this.same.flatMap((run) => Object.keys(run.cards)))];
    const named = cards.length ? this.folded("named", `Units with a card: ${cards.length}`, ...cards.map((unit) => this.unit(unit))) : null;
    if (!fires) return section("units", title, missed(missing.fires), named);
    const block = this.layer - 1;
    if (block < 0) return section("units", title, empty("State 0 is before the first block: no unit has written yet."), named);
    const found = this.fires(this.subject, block);
    const most = Math.max(...found.map(({ value }) => Math.abs(value)), 1e-12);
    return section("units", title,
      h("p", { class: "soft" }, `At ${this.name(this.subject)}, in block ${block}, by |activation| × length of what they write; and the words that this raises.`),
      ...found.map(({ unit, value }) => this.unit(unit, value, most)), found.length ? null : empty("None is known here."), named);
  }

  unit(unit, value, most) {
    const bar = h("i", { class: `bar ${value < 0 ? "below" : ""}` });
    if (value !== undefined) bar.style.width = `${(100 * Math.abs(value)) / most}%`;
    const words = this.written(unit, value < 0 ? "lowers" : "raises").slice(0, 4).join(", "); // below 0 it writes the other way round
    return h("button", { type: "button", class: "unit", key: this.key(`unit ${unit}`), "aria-pressed": String(unit === this.state.unit),
      "aria-label": `Unit ${unit}${value === undefined ? "" : `, activation ${fmt(value)}`}, raises ${words}`,
      onclick: () => this.viewer.set({ unit: unit === this.state.unit ? null : unit }) },
      h("span", { class: "number" }, unit), value === undefined ? null : h("span", { class: "value" }, bar, h("span", {}, fmt(value))), h("span", { class: "rest" }, words));
  }

  written(unit, way) {
    const row = this.rows.get(unit);
    if (row === undefined) return (this.cards(unit)[0]?.[way] ?? []).map(plain);
    const { each } = this.payload.units[way];
    const found = [...this.way[way].subarray(row * each, (row + 1) * each)].filter((word) => word >= 0);
    return found.map((word) => plain(this.payload.words[word]));
  }

  // The runs that are of the same model, this one among them: what one knows of a unit holds in the other.
  get same() {
    return this.viewer.index.filter((run) => run === this.run || (run.fingerprint && run.fingerprint === this.run.fingerprint));
  }

  cards(unit) {
    return this.same.flatMap((run) => run.cards[unit] ?? []);
  }

  // Opened and closed by the reader, and as he left it when it is drawn again.
  folded(name, title, ...children) {
    const open = this.opened.has(name);
    const toggle = (event) => (event.currentTarget.open ? this.opened.add(name) : this.opened.delete(name));
    return h("details", { class: name, open, ontoggle: toggle }, h("summary", { key: this.key(`fold ${name}`) }, title), ...children);
  }

  drawCard(unit) {
    const places = [...this.places(unit)].filter(([position]) => this.payload.tokens[position]);
    const patches = places.filter(([position]) => this.payload.tokens[position].group === "image");
    const texts = places.filter(([position]) => this.payload.tokens[position].group !== "image");
    const line = (label, words, kind) => [h("dt", {}, label), h("dd", { class: kind }, words.length ? words.join(", ") : "not known")];
    const where = texts.map(([position, value]) =>
      h("button", { type: "button", class: "token", key: this.key(`at ${position}`), title: `activation ${fmt(value)}`,
        onclick: () => this.viewer.set({ token: position, patch: null }) }, plain(this.payload.tokens[position].text)));
    const cards = this.cards(unit).map((card) => h("div", { class: "looked" },
      h("p", {}, h("b", {}, card.concept), " ", h("span", { class: "chip" }, card.verdict)),
      h("p", { class: "soft" }, card.note ?? ""),
      h("div", { class: "pictures" }, ...card.pictures.map((src) => h("img", { src, alt: `where unit ${unit} is most active` })))));
    return section("unit-card", `Unit ${unit}`,
      h("dl", {}, ...line("raises", this.written(unit, "raises"), "up"), ...line("lowers", this.written(unit, "lowers"), "down")),
      h("p", { class: "soft" }, `In this sample it is among those that write most at ${count(patches.length, "patch", "patches")}, outlined on the image, and ${count(texts.length, "other token", "other tokens")}. Where its activation is below 0, it raises what it lowers.`),
      h("div", { class: "prompt" }, ...where),
      ...(cards.length ? cards : [empty("No card: medlens neurons MODEL DATA tests whether single units matter.")]));
  }

  drawMaps() {
    const title = "What speaks for the answer";
    const { maps, missing } = this.payload;
    if (!maps) return section("maps", title, missed(missing.maps));
    const verdict = (map) => h("span", { class: `chip ${VERDICTS[map.verdict] ?? ""}` }, map.verdict);
    const several = new Set(maps.map((map) => map.target)).size > 1;
    const list = maps.map((map) => h("button", { type: "button", class: "map", disabled: map.values === null, key: this.key(`map ${map.map} ${map.method}`),
      "aria-pressed": String(map.values !== null && this.image.on === `map${map.map}`), onclick: () => this.viewer.set({ on: `map${map.map}` }) },
      h("span", {}, map.method.replaceAll("_", " "), several ? h("small", { class: "soft" }, map.target) : null), h("span", { class: "soft" }, map.layer === null ? "" : `block ${map.layer}`), verdict(map)));
    const chosen = maps.find((map) => this.image.on === `map${map.map}` && map.values);
    return section("maps", title, ...list, chosen ? this.drawChosen(chosen) : null);
  }

  drawChosen(map) {
    const mark = (check) => (check.passed === null ? h("td", { class: "soft" }, "no say") : h("td", { class: check.passed ? "good" : "bad" }, check.passed ? "passed" : "failed"));
    const row = (check) => h("tr", {}, h("th", { scope: "row" }, check.check, " ", h("span", { class: "soft" }, check.of)), h("td", {}, fmt(check.value)), h("td", {}, fmt(check.reference)), mark(check));
    const head = h("tr", {}, ...["check", "value", "beside", ""].map((name) => h("th", { scope: "col" }, name)));
    return h("div", { class: "chosen" }, h("p", {}, map.target), h("p", { class: "soft" }, map.note),
      map.checks.length ? this.folded("checks", `Its report card: ${map.checks.length} checks`, h("table", {}, h("thead", {}, head), h("tbody", {}, ...map.checks.map(row)))) : null);
  }
}

// ---- the image and what is laid on it

class Picture {
  constructor(pane) {
    this.pane = pane;
    this.said = "";
    const { picture, patches } = pane.payload;
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
    const { payload, state } = this.pane;
    const own = [...(payload.looks ? [["looks", "where it looks"]] : []), ...(payload.lens ? [["words", "what patches say"]] : []), ["none", "image alone"]];
    const maps = (payload.maps ?? []).filter((map) => map.values).map((map) => `map${map.map}`);
    const first = payload.looks || !maps.length ? own[0][0] : maps[0];
    return { own, on: [...own.map(([name]) => name), ...maps].includes(state.on) ? state.on : first };
  }

  content(on) {
    const { pane } = this;
    const { state, payload } = pane;
    if (on === "looks") {
      const block = pane.layer - 1;
      const name = pane.name(state.token);
      if (block < 0) return { words: "State 0 is before the first block: nothing has looked anywhere yet." };
      const found = pane.looks(state.token, block);
      if (!found) return { words: `${name} stands before the image, or is not there: it cannot look at it.` };
      const total = found.weights.reduce((sum, w) => sum + w, 0);
      const sinks = found.sinks.length ? ` ${found.sinks.length === 1 ? "One patch (ringed) draws" : `${found.sinks.length} patches (ringed) draw`} attention whoever looks.` : "";
      return { values: found.weights, but: found.sinks, label: "attention", words: `${name} gives the image ${fmt(total)} of its attention in block ${block}, mean over heads.${sinks} Where a token looks is not why it speaks.` };
    }
    if (on === "words") {
      const said = payload.patches.positions.map((position) => pane.says(position, pane.layer)?.[0] ?? null);
      return { values: said.map((first) => first?.p ?? null), letters: said.map((first) => first?.word ?? ""), label: "p of its word", words: `The likeliest word of each patch at state ${pane.layer}.` };
    }
    const map = (payload.maps ?? []).find((m) => `map${m.map}` === on);
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
    const { boxes, positions } = this.pane.payload.patches;
    const around = (k, name) => {
      const [left, top, right, bottom] = boxes[k].map((edge) => 1000 * edge);
      return s("rect", { x: left + 3, y: top + 3, width: Math.max(1, right - left - 6), height: Math.max(1, bottom - top - 6), class: name });
    };
    const ring = (k) => {
      const [left, top, right, bottom] = boxes[k].map((edge) => 1000 * edge);
      return s("ellipse", { cx: (left + right) / 2, cy: (top + bottom) / 2, rx: 0.36 * (right - left), ry: 0.36 * (bottom - top), class: "sink" });
    };
    const fires = state.unit ? this.pane.places(state.unit) : new Map();
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
      this.hover.textContent = pane.payload.lens || pane.payload.fires ? "Click a patch for its words and units." : "";
      return;
    }
    const said = pane.says(pane.payload.patches.positions[at], pane.layer)?.[0];
    const value = this.shown.values?.[at];
    this.hover.textContent = [`patch ${at}`, value === undefined || value === null ? "" : `${this.shown.label} ${fmt(value)}`, said ? `says “${said.word}” ${fmt(said.p)}` : ""].filter(Boolean).join(" · ");
  }

  key(event) {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!way || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const { boxes } = this.pane.payload.patches;
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
