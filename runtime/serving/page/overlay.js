// Draws handles and the mask over the large picture.

const START = "#dc1e1e";
const TARGET = "#1e46e6";
// The picture where it stays as it is, under a mask.
const SHADE = "rgb(0 0 0 / 0.3)";

// `handles` are [x, y, target x, target y] in pixels of the network's image, whose side is `resolution`. `mask` is a canvas that is
// white where the picture may change, or null.
export function drawOverlay(canvas, resolution, handles, mask) {
  const side = Math.round(canvas.clientWidth * devicePixelRatio) || 1;
  [canvas.width, canvas.height] = [side, side];
  const pen = canvas.getContext("2d");
  if (mask) {
    pen.fillStyle = SHADE;
    pen.fillRect(0, 0, side, side);
    pen.globalCompositeOperation = "destination-out";
    pen.imageSmoothingEnabled = false;
    pen.drawImage(mask, 0, 0, side, side);
    pen.globalCompositeOperation = "source-over";
  }
  const scale = side / resolution;
  const radius = Math.max(4 * devicePixelRatio, side / 80);
  const middle = (value) => (value + 0.5) * scale;
  for (const [x, y, targetX, targetY] of handles) {
    if (targetX !== null) {
      arrow(pen, middle(x), middle(y), middle(targetX), middle(targetY), radius);
      dot(pen, middle(targetX), middle(targetY), radius, TARGET);
    }
    dot(pen, middle(x), middle(y), radius, START);
  }
}

function arrow(pen, x, y, targetX, targetY, radius) {
  for (const [color, width] of [["white", radius], ["black", radius / 2]]) {
    Object.assign(pen, { strokeStyle: color, lineWidth: width, lineCap: "round" });
    pen.beginPath();
    pen.moveTo(x, y);
    pen.lineTo(targetX, targetY);
    pen.stroke();
  }
}

function dot(pen, x, y, radius, color) {
  Object.assign(pen, { fillStyle: color, strokeStyle: "white", lineWidth: radius / 3 });
  pen.beginPath();
  pen.arc(x, y, radius, 0, 2 * Math.PI);
  pen.fill();
  pen.stroke();
}
