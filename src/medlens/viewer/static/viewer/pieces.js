// Where data come from, piece by piece; pieces.py says what a piece is.
//
// A source asks for a piece by its path ("index", "0/sample/3", "0/sample/3/block/12"): served() of the server that the page is
// from, inside() of what stands in the page, asked() of a notebook. linked: whether the address is the viewer's own.

const KINDS = { i4: Int32Array, f4: Float32Array, u2: Uint16Array };

// An array that was sent as all lowest bytes, then the next ones.
function joined(bytes, [kind, at, count]) {
  const found = new KINDS[kind](count);
  const own = new Uint8Array(found.buffer);
  const size = found.BYTES_PER_ELEMENT;
  for (let byte = 0; byte < size; byte++) for (let k = 0; k < count; k++) own[k * size + byte] = bytes[at + byte * count + k];
  return found;
}

async function opened(piece) {
  const inflated = new Blob([piece]).stream().pipeThrough(new DecompressionStream("deflate"));
  const whole = await new Response(inflated).arrayBuffer();
  const length = new DataView(whole).getUint32(0, true);
  const arrays = new Uint8Array(whole, 4 + length);
  const text = new TextDecoder().decode(new Uint8Array(whole, 4, length));
  return JSON.parse(text, (_, value) => (Array.isArray(value?.array) ? joined(arrays, value.array) : value));
}

export function served() {
  return {
    linked: true,
    async piece(path) {
      const found = await fetch(`/data/${path}`, { credentials: "same-origin" });
      if (!found.ok) throw new Error(await found.text());
      return opened(await found.arrayBuffer());
    },
  };
}

export function inside(element) {
  const pieces = JSON.parse(element.querySelector("script").textContent);
  const blocks = (path) => Object.keys(pieces).filter((other) => other.startsWith(path)).map((other) => other.slice(path.length));
  return {
    linked: false,
    async piece(path) {
      if (path in pieces) return opened(Uint8Array.from(atob(pieces[path]), (c) => c.charCodeAt(0)));
      const held = blocks(path.replace(/[^/]*$/, ""));
      throw new Error(`of this sample the page holds blocks ${held.join(", ")}; medlens view RUN shows all`);
    },
  };
}

export function asked(model) {
  const waiting = new Map();
  model.on("msg:custom", ({ path, failed }, buffers) => {
    waiting.get(path)?.(failed === null ? opened(buffers[0]) : Promise.reject(new Error(failed)));
    waiting.delete(path);
  });
  return {
    linked: false,
    piece: (path) =>
      new Promise((done) => {
        waiting.set(path, done);
        model.send({ path });
      }),
  };
}
