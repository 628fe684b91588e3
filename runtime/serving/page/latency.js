// The time of the last pictures, as a number and as a line.

const KEPT = 40;
const times = [];
const line = document.querySelector("#latency polyline");

export function addTime(milliseconds) {
  times.push(milliseconds);
  if (times.length > KEPT) times.shift();
  const median = [...times].sort((a, b) => a - b)[Math.floor(times.length / 2)];
  document.querySelector("#latency-now").textContent = shown(milliseconds);
  document.querySelector("#latency-median").textContent = `median ${shown(median)}`;
  const most = Math.max(...times);
  line.setAttribute("points", times.map((t, i) => `${(120 * i) / (KEPT - 1)},${26 - (24 * t) / most}`).join(" "));
}

const shown = (milliseconds) => (milliseconds < 10 ? `${milliseconds.toFixed(1)} ms` : `${Math.round(milliseconds)} ms`);
