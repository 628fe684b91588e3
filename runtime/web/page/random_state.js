// Normal numbers as NumPy's `RandomState(seed).randn` draws them, so that a seed gives the same latent as in Python.

const SIZE = 624;
const SHIFT = 397;

// `count` numbers of mean 0 and variance 1, float32. `seed` is a whole number from 0 to 2^32 - 1.
export function standardNormals(seed, count) {
  const next = mersenneTwister(seed);
  const uniform = () => ((next() >>> 5) * 67108864 + (next() >>> 6)) / 9007199254740992; // 53 bits, in [0, 1)
  const values = new Float32Array(count);
  for (let i = 0; i < count; i += 2) {
    const [first, second] = polarPair(uniform);
    values[i] = second; // NumPy returns the second one first, and keeps the other
    if (i + 1 < count) values[i + 1] = first;
  }
  return values;
}

// Two independent normal numbers from points in the unit disc (Marsaglia and Bray 1964).
function polarPair(uniform) {
  let x, y, square;
  do {
    x = 2 * uniform() - 1;
    y = 2 * uniform() - 1;
    square = x * x + y * y;
  } while (square >= 1 || square === 0);
  const factor = Math.sqrt((-2 * Math.log(square)) / square);
  return [factor * x, factor * y];
}

// MT19937 (Matsumoto and Nishimura 1998): a function that returns the next 32 bits. The state comes from the seed by Knuth's generator.
function mersenneTwister(seed) {
  const state = new Uint32Array(SIZE);
  state[0] = seed;
  for (let i = 1; i < SIZE; i++) {
    const last = state[i - 1] ^ (state[i - 1] >>> 30);
    state[i] = Math.imul(1812433253, last) + i;
  }
  let index = SIZE;
  return () => {
    if (index === SIZE) {
      twist(state);
      index = 0;
    }
    let bits = state[index++];
    bits ^= bits >>> 11;
    bits ^= (bits << 7) & 0x9d2c5680;
    bits ^= (bits << 15) & 0xefc60000;
    return (bits ^ (bits >>> 18)) >>> 0;
  };
}

function twist(state) {
  for (let i = 0; i < SIZE; i++) {
    const mixed = (state[i] & 0x80000000) | (state[(i + 1) % SIZE] & 0x7fffffff);
    state[i] = state[(i + SHIFT) % SIZE] ^ (mixed >>> 1) ^ (mixed & 1 ? 0x9908b0df : 0);
  }
}
