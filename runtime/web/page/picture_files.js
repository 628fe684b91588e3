// Picture files of pixels, each with its recipe inside, as stylert writes them in Python.

const PNG_KEY = "stylert";
const PNG_COLORS = { 1: 0, 2: 4, 3: 2, 4: 6 };
const STORED_BYTES = 65535;
const encoder = new TextEncoder();

// A picture file as a Blob. `pixels` are bytes [side, side, channels]; `size` is the width and height of the picture.
// Without `compress` a PNG file is larger, and ready several times as fast: for a picture that is only shown.
export async function pictureFile(pixels, side, channels, { suffix, size, comment, compress, quality }) {
  if (suffix === "png") {
    const data = size === side ? pixels : fromRgba(resized(pixels, side, channels, size), channels);
    return png(data, size, channels, comment, compress);
  }
  const canvas = new OffscreenCanvas(size, size);
  canvas.getContext("2d").putImageData(resized(pixels, side, channels, size), 0, 0);
  const blob = await canvas.convertToBlob({ type: "image/jpeg", quality: quality / 100 });
  return jpegWithComment(new Uint8Array(await blob.arrayBuffer()), comment);
}

async function png(pixels, size, channels, comment, compress) {
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, size);
  view.setUint32(4, size);
  header.set([8, PNG_COLORS[channels]], 8);
  const rows = filteredRows(pixels, size, channels, compress);
  const data = compress ? await deflated(rows) : stored(rows);
  const text = encoder.encode(`${PNG_KEY}\0${comment}`);
  const signature = new Uint8Array([137, 80, 78, 71, 13, 10, 26, 10]);
  return new Blob([signature, chunk("IHDR", header), chunk("tEXt", text), chunk("IDAT", data), chunk("IEND", new Uint8Array())], { type: "image/png" });
}

// Each row after the number of its filter: 1, the difference to the pixel at the left, or 0, the bytes themselves.
function filteredRows(pixels, size, channels, subtract) {
  const width = size * channels;
  const rows = new Uint8Array(size * (width + 1));
  for (let y = 0; y < size; y++) {
    const begin = y * (width + 1);
    rows[begin] = subtract ? 1 : 0;
    rows.set(pixels.subarray(y * width, (y + 1) * width), begin + 1);
    if (subtract) for (let x = width - 1; x >= channels; x--) rows[begin + 1 + x] -= rows[begin + 1 + x - channels];
  }
  return rows;
}

async function deflated(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// A zlib stream of blocks that are not compressed (RFC 1950 and 1951).
function stored(bytes) {
  const blocks = Math.ceil(bytes.length / STORED_BYTES);
  const stream = new Uint8Array(2 + bytes.length + 5 * blocks + 4);
  const view = new DataView(stream.buffer);
  stream.set([0x78, 0x01]);
  let at = 2;
  for (let begin = 0; begin < bytes.length; begin += STORED_BYTES) {
    const block = bytes.subarray(begin, begin + STORED_BYTES);
    stream[at] = begin + STORED_BYTES >= bytes.length ? 1 : 0;
    view.setUint16(at + 1, block.length, true);
    view.setUint16(at + 3, ~block.length & 0xffff, true);
    stream.set(block, at + 5);
    at += 5 + block.length;
  }
  view.setUint32(at, adler32(bytes));
  return stream;
}

function adler32(bytes) {
  let a = 1, b = 0;
  for (let begin = 0; begin < bytes.length; begin += 3800) { // so long the sums are exact
    for (const byte of bytes.subarray(begin, begin + 3800)) b += a += byte;
    a %= 65521;
    b %= 65521;
  }
  return ((b << 16) | a) >>> 0;
}

function chunk(kind, content) {
  const bytes = new Uint8Array(12 + content.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, content.length);
  bytes.set(encoder.encode(kind), 4);
  bytes.set(content, 8);
  view.setUint32(8 + content.length, crc32(bytes.subarray(4, 8 + content.length)));
  return bytes;
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  return crc;
});

function crc32(bytes) {
  let crc = -1;
  for (const byte of bytes) crc = (crc >>> 8) ^ CRC_TABLE[(crc ^ byte) & 255];
  return ~crc >>> 0;
}

// The comment comes after the segment APP0, which must be the first.
function jpegWithComment(file, comment) {
  const text = encoder.encode(comment);
  const segment = new Uint8Array(4 + text.length);
  segment.set([0xff, 0xfe, (text.length + 2) >> 8, (text.length + 2) & 255]);
  segment.set(text, 4);
  const hasHead = file[2] === 0xff && file[3] === 0xe0;
  const head = hasHead ? 4 + file[4] * 256 + file[5] : 2;
  return new Blob([file.subarray(0, head), segment, file.subarray(head)], { type: "image/jpeg" });
}

function resized(pixels, side, channels, size) {
  const image = toRgba(pixels, side, channels);
  if (size === side) return image;
  const source = new OffscreenCanvas(side, side);
  source.getContext("2d").putImageData(image, 0, 0);
  const context = new OffscreenCanvas(size, size).getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(source, 0, 0, size, size);
  return context.getImageData(0, 0, size, size);
}

function toRgba(pixels, side, channels) {
  const image = new ImageData(side, side);
  const hasAlpha = channels === 2 || channels === 4;
  for (let from = 0, to = 0; from < pixels.length; from += channels, to += 4) {
    for (let i = 0; i < 3; i++) image.data[to + i] = pixels[from + (channels < 3 ? 0 : i)];
    image.data[to + 3] = hasAlpha ? pixels[from + channels - 1] : 255;
  }
  return image;
}

function fromRgba(image, channels) {
  const pixels = new Uint8Array((image.data.length / 4) * channels);
  for (let from = 0, to = 0; to < pixels.length; from += 4, to += channels) {
    for (let i = 0; i < channels; i++) pixels[to + i] = image.data[from + (channels === 2 && i === 1 ? 3 : i)];
  }
  return pixels;
}
