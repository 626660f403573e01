// What is known of one sample. The tables come by block, as far as they are looked at.

import { plain } from "./words.js";

const FINEST = 65535; // steps of a weight, see packing.py

export class Sample {
  constructor(payload) {
    Object.assign(this, payload); // id, about, picture, tokens, patches, lens, decisions, blocks, maps, gate, swaps, missing
    this.come = new Map(); // blocks, by number
    this.spoken = this.tokens.flatMap((token, k) => (token.group === "image" ? [] : [k]));
    const answer = this.tokens.findIndex((token) => token.group === "answer");
    this.predicts = answer > 0 ? answer - 1 : (this.spoken.at(-1) ?? null); // the token behind which the answer begins
  }

  put(number, block) {
    const rows = new Map(block.units?.units.map((unit, k) => [unit, k]));
    this.come.set(number, { ...block, rows });
  }

  // Whether a block has come, or there is nothing that could come.
  has(number) {
    return this.come.has(number) || !this.blocks.includes(number);
  }

  // Why a block is not there, where it did not come.
  failed(number) {
    return this.come.get(number)?.failed ?? null;
  }

  name(position) {
    const token = this.tokens[position];
    if (!token) return "nothing";
    const patch = this.patches.positions.indexOf(position);
    return patch >= 0 ? `patch ${patch}` : `“${plain(token.text)}”`;
  }

  // Its likeliest words behind a token at a state.
  says(position, state) {
    const { lens } = this;
    const k = lens ? lens.states.indexOf(state) : -1;
    if (k < 0 || position === null || position >= lens.count) return null;
    const begin = (k * lens.count + position) * lens.each;
    const found = [...lens.said.subarray(begin, begin + lens.each)].filter((word) => word >= 0);
    return found.length ? found.map((word, i) => ({ word: plain(lens.words[word]), p: lens.p[begin + i] })) : null;
  }

  // The weights that a token gives each patch in a block, and the block's sinks; null where that is not known.
  looks(position, block) {
    const looks = this.come.get(block)?.looks;
    const row = looks ? looks.positions.indexOf(position) : -1;
    if (row < 0) return null;
    const steps = looks.weights.subarray(row * looks.count, (row + 1) * looks.count);
    return { weights: Array.from(steps, (step) => (step / FINEST) * looks.largest[row]), sinks: looks.sinks };
  }

  fires(position, block) {
    const fires = this.come.get(block)?.fires;
    if (!fires || position === null || position >= fires.count) return [];
    const begin = position * fires.each;
    const units = [...fires.units.subarray(begin, begin + fires.each)].filter((unit) => unit >= 0);
    return units.map((unit, i) => ({ unit: `${block}.${unit}`, value: fires.activations[begin + i] }));
  }

  // Where in this sample a unit is among those that write most: by position, its activation.
  places(unit) {
    const [block, number] = unit.split(".").map(Number);
    const fires = this.come.get(block)?.fires;
    const found = new Map();
    fires?.units.forEach((other, k) => other === number && found.set(Math.floor(k / fires.each), fires.activations[k]));
    return found;
  }

  // What a unit "raises" or "lowers"; null where this sample does not know.
  written(unit, way) {
    const [number, of] = unit.split(".").map(Number);
    const block = this.come.get(number);
    const row = block?.rows?.get(of);
    if (row === undefined) return null;
    const { each, words } = block.units[way];
    return [...words.subarray(row * each, (row + 1) * each)].filter((word) => word >= 0).map((word) => plain(block.units.words[word]));
  }
}
