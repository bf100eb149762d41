// Define colours, and draw arrays of numbers onto a canvas.

const opaque = (r, g, b) => (255 << 24) | (b << 16) | (g << 8) | r;

function ramp(stops) {
  const table = new Uint32Array(256);
  for (let i = 0; i < 256; i++) {
    const at = (i / 255) * (stops.length - 1);
    const k = Math.min(Math.floor(at), stops.length - 2);
    const [a, b] = [stops[k], stops[k + 1]];
    table[i] = opaque(...a.map((v, c) => Math.round(v + (b[c] - v) * (at - k))));
  }
  return table;
}

const GREY = ramp([[0, 0, 0], [255, 255, 255]]);
// The lightness increases evenly with the error: black, violet, red, orange, yellow, nearly white.
const HEAT = ramp([[0, 0, 0], [40, 11, 84], [101, 21, 110], [159, 42, 99], [212, 72, 66], [245, 125, 21], [250, 193, 39], [252, 255, 200]]);
const SIGNED = ramp([[130, 200, 255], [40, 110, 220], [12, 36, 90], [0, 0, 0], [96, 40, 8], [225, 110, 25], [255, 210, 130]]);

// Return the colours of the integers from 0 to top: black at low, white at high.
function greyTable(top, low, high) {
  const table = new Uint32Array(top + 1);
  const span = Math.max(high - low, 1e-9);
  for (let v = 0; v <= top; v++) table[v] = GREY[Math.round(255 * Math.min(1, Math.max(0, (v - low) / span)))];
  return table;
}

class Picture {
  constructor(ny, nx) {
    this.canvas = document.createElement("canvas");
    this.canvas.width = nx;
    this.canvas.height = ny;
    this.context = this.canvas.getContext("2d");
    this.data = this.context.createImageData(nx, ny);
    this.pixels = new Uint32Array(this.data.data.buffer);
  }

  finish() {
    this.context.putImageData(this.data, 0, 0);
  }

  grey(values, table) {
    for (let i = 0; i < values.length; i++) this.pixels[i] = table[values[i]];
    this.finish();
  }

  // Draw |values − first|, or the signed difference; `full` has the last colour.
  error(values, first, full, signed) {
    const factor = (signed ? 127.5 : 255) / full;
    for (let i = 0; i < values.length; i++) {
      const d = (values[i] - first[i]) * factor;
      this.pixels[i] = signed
        ? SIGNED[Math.max(0, Math.min(255, Math.round(127.5 + d)))]
        : HEAT[Math.min(255, Math.round(Math.abs(d)))];
    }
    this.finish();
  }
}

// The borders between labels, as a path in picture elements.
function outlines(region, ny, nx) {
  const path = new Path2D();
  const at = (y, x) => (y < 0 || x < 0 || y >= ny || x >= nx ? 0 : region[y * nx + x]);
  for (let y = 0; y <= ny; y++) {
    for (let x = 0; x <= nx; x++) {
      if (at(y, x) !== at(y - 1, x)) { path.moveTo(x, y); path.lineTo(x + 1, y); }
      if (at(y, x) !== at(y, x - 1)) { path.moveTo(x, y); path.lineTo(x, y + 1); }
    }
  }
  return path;
}

// A mask, or a point spread function: drawn once, as it is.
async function drawStill(canvas, still, colour) {
  const [ny, nx] = still.shape;
  const values = await unpack(still.plane, ny, nx, []);
  const picture = new Picture(ny, nx);
  for (let i = 0; i < values.length; i++) picture.pixels[i] = colour(values[i]);
  picture.finish();
  canvas.width = nx;
  canvas.height = ny;
  canvas.getContext("2d").drawImage(picture.canvas, 0, 0);
}

const SVG = "http://www.w3.org/2000/svg";

function svg(name, attributes, parent) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (parent) parent.append(node);
  return node;
}

function element(name, className, parent, text) {
  const node = document.createElement(name);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  if (parent) parent.append(node);
  return node;
}
