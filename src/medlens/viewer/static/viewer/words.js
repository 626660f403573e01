// How words and numbers are written, and what is good and bad.

export const GROUPS = { image: "image", text: "question", template: "template", answer: "answer" };
export const VERDICTS = { trust: "good", "do not trust": "bad" };

export const plain = (word) => (word ?? "").replace(/^[▁Ġ]+/, "").replace(/^\s+$/, "") || "␣";
export const fmt = (x) => (x === null || x === undefined ? "–" : x === 0 ? "0" : Math.abs(x) < 0.001 ? x.toExponential(1) : String(+x.toPrecision(3)));
export const count = (n, one, more) => `${n} ${n === 1 ? one : more}`;
export const clamp = (x, low, high) => Math.min(high, Math.max(low, x));
