// What the model would say, state by state, and how its answer comes about.

import { h, missed, s, section } from "./elements.js";
import { fmt, plain } from "./words.js";

const [WIDTH, HEIGHT, EDGE] = [320, 120, 8]; // of the chart of the answer

export function drawSays(pane) {
  const { lens, missing } = pane.sample;
  const title = "What it would say, state by state";
  if (!lens) return section("says", title, missed(missing.lens));
  const rows = [...lens.states].reverse().map((state) => row(pane, state, pane.sample.says(pane.subject, state)));
  return section("says", title, h("p", { class: "soft" }, `Behind ${pane.sample.name(pane.subject)}, the likeliest next words by the lens.`), h("div", { class: "states" }, ...rows));
}

function row(pane, state, said) {
  const [first, ...rest] = said ?? [];
  const others = rest.map(({ word, p }) => h("span", { title: fmt(p) }, word));
  const bar = first ? h("i", { class: "bar" }) : null;
  if (bar) bar.style.width = `${100 * first.p}%`;
  return h("button", { type: "button", class: "state", key: pane.key(`state ${state}`), "aria-pressed": String(state === pane.layer),
    "aria-label": first ? `State ${state}: ${said.map(({ word, p }) => `${word} ${fmt(p)}`).join(", ")}` : `State ${state}: nothing`,
    onclick: () => pane.viewer.set({ layer: state }) },
    h("span", { class: "number" }, String(state)), h("span", { class: "first" }, bar, h("span", {}, first?.word ?? "–")),
    h("span", { class: "p" }, first ? first.p.toFixed(2) : ""), h("span", { class: "rest" }, ...others));
}

export function drawDecides(pane) {
  const { decisions, missing } = pane.sample;
  const title = "How the answer comes about";
  if (!decisions) return section("decides", title, missed(missing.decisions));
  const now = decisions.find((d) => d.layer === pane.layer);
  const first = decisions.find((d, k) => decisions.slice(k).every((later) => later.rank === 1));
  const said = now ? `At state ${now.layer}: log-odds ${fmt(now.log_odds)}, p ${fmt(now.p)}, rank ${now.rank.toLocaleString("en")}.` : "";
  return section("decides", title,
    h("p", { class: "soft" }, `Log-odds of “${plain(decisions[0].word)}”, the answer's first token. ${first ? `The likeliest word from state ${first.layer} on.` : "Not the likeliest word at the last state."}`),
    chart(decisions, now), h("p", { class: "number-line" }, said));
}

function chart(decisions, now) {
  const known = decisions.filter((d) => d.log_odds !== null);
  const odds = known.map((d) => d.log_odds);
  const [low, high] = [Math.min(0, ...odds), Math.max(0, ...odds)];
  const last = Math.max(1, ...known.map((d) => d.layer));
  const x = (state) => EDGE + (state / last) * (WIDTH - 2 * EDGE);
  const y = (value) => EDGE + ((high - value) / (high - low || 1)) * (HEIGHT - 2 * EDGE);
  const path = known.map((d, k) => `${k ? "L" : "M"}${x(d.layer).toFixed(1)},${y(d.log_odds).toFixed(1)}`).join("");
  const dots = known.map((d) => s("circle", { cx: x(d.layer), cy: y(d.log_odds), r: d === now ? 4.5 : 2.2, class: d.rank === 1 ? "first" : "" }));
  return s("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `Log-odds of ${plain(decisions[0].word)} at every state, from ${fmt(odds[0])} to ${fmt(odds.at(-1))}` },
    s("line", { x1: 0, x2: WIDTH, y1: y(0), y2: y(0), class: "zero" }),
    now ? s("line", { x1: x(now.layer), x2: x(now.layer), y1: 0, y2: HEIGHT, class: "now" }) : null,
    s("path", { d: path }), ...dots);
}
