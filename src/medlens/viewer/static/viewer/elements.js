// Elements of a page. What comes from data or model is only ever set as text.

const SVG = "http://www.w3.org/2000/svg";

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
export const h = (tag, attributes, ...children) => made(document.createElement(tag), attributes, children);
export const s = (tag, attributes, ...children) => made(document.createElementNS(SVG, tag), attributes, children);
export const section = (name, title, ...children) => h("section", { class: `card ${name}`, "aria-label": title }, h("h3", {}, title), ...children);
export const empty = (words) => h("p", { class: "empty" }, words);
export const missed = ({ why, command }) => h("p", { class: "empty" }, why, " ", h("code", {}, command));
