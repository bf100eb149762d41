"use strict";
// Decode the images that mrirecon/evaluation/report/slices.py compressed: base64, deflate, mapped differences, and a
// prediction: MED, or an earlier image of the slice.

const MED = 0;

async function inflate(text) {
  const letters = atob(text);
  const bytes = new Uint8Array(letters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = letters.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// Return an image of ny × nx pixels as a Uint16Array, from [predictor, text] and the earlier images of its slice.
async function unpack(plane, ny, nx, earlier) {
  const bytes = await inflate(plane[1]);
  const n = ny * nx;
  const wide = bytes.length === 2 * n;
  const out = new Uint16Array(n);
  const rest = (i) => {
    const folded = wide ? bytes[i] | (bytes[n + i] << 8) : bytes[i];
    return folded & 1 ? -((folded + 1) >> 1) : folded >> 1;
  };
  if (plane[0] !== MED) {
    const like = earlier[plane[0] - 1];
    for (let i = 0; i < n; i++) out[i] = like[i] + rest(i);
    return out;
  }
  for (let y = 0, i = 0; y < ny; y++) {
    for (let x = 0; x < nx; x++, i++) {
      const left = x ? out[i - 1] : 0;
      const above = y ? out[i - nx] : 0;
      const corner = x && y ? out[i - nx - 1] : 0;
      const low = Math.min(left, above);
      const high = Math.max(left, above);
      const guess = corner >= high ? low : corner <= low ? high : left + above - corner;
      out[i] = guess + rest(i);
    }
  }
  return out;
}

// Return the images of a slice: {images: [Uint16Array], region: Uint16Array or null}.
async function unpackSlice(one, ny, nx) {
  const images = [];
  for (const plane of one.planes) images.push(await unpack(plane, ny, nx, images));
  return { images, region: one.region ? await unpack(one.region, ny, nx, []) : null };
}
