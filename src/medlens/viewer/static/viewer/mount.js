// The viewer in an element: mount(element, source) draws it; in a notebook, which brings the element, render does.

import { asked, inside, served } from "./pieces.js";
import { Viewer } from "./screen.js";

export async function mount(element, source) {
  const viewer = new Viewer(element, source);
  await viewer.begin();
  return viewer;
}

export { inside, served };

export default { render: ({ model, el }) => void mount(el, asked(model)) };
