"""A page of its own that writes a line again as a pen would, and takes lines that are drawn on it.

The page loads nothing from elsewhere. What is drawn there is saved as JSON, {"text": ..., "strokes": [[dx, dy, lift],
...]}, the rows of `Strokes.to_array` ("stroke-3" of sketch-rnn); `read_drawn` reads such a file.
"""

from __future__ import annotations

import html
import json
from pathlib import Path

import numpy as np

from probseq.handwriting.strokes import Strokes

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>@TITLE@</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a2e; }
canvas { width: 100%; border: 1px solid #c9c9d4; border-radius: 6px; background: #fffefa; touch-action: none; }
button, input { font: inherit; padding: .25rem .8rem; margin: .4rem .4rem .8rem 0; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.05rem; margin-top: 2rem; }
</style></head><body>
<h1>@TITLE@</h1>
<canvas id="line" height="10"></canvas>
<div><button id="again">write it again</button><label>speed <input id="speed" type="range" min="1" max="12"
value="3"></label></div>
<h2>Your hand</h2>
<p>Draw below with a mouse, a pen or a finger, say what it reads, and save the strokes.</p>
<canvas id="pad" height="10"></canvas>
<div><input id="text" placeholder="what it reads"><button id="clear">clear</button><button id="save">save as
JSON</button> <span id="count">no points</span></div>
<script>
const strokes = @STROKES@;
const ink = "#1a1a2e", dpr = window.devicePixelRatio || 1;
function sized(canvas, aspect) {
  canvas.width = canvas.clientWidth * dpr; canvas.height = canvas.width * aspect;
  canvas.style.height = canvas.clientWidth * aspect + "px";
  const c = canvas.getContext("2d");
  c.strokeStyle = c.fillStyle = ink; c.lineWidth = 2.2 * dpr; c.lineCap = c.lineJoin = "round";
  return c;
}
const points = []; let x = 0, y = 0;
for (const [dx, dy, lift] of strokes) { x += dx; y += dy; points.push([x, y, lift]); }
const xs = points.map(p => p[0]), ys = points.map(p => p[1]);
const low = [Math.min(...xs), Math.min(...ys)], high = [Math.max(...xs), Math.max(...ys)];
const size = Math.max(high[0] - low[0], 1e-9), margin = 0.05 * size;
const line = document.getElementById("line");
const aspect = Math.max(0.08, (high[1] - low[1] + 2 * margin) / (size + 2 * margin));
let run = 0;
function replay() {
  const mine = ++run, c = sized(line, aspect), scale = line.width / (size + 2 * margin);
  const place = p => [(p[0] - low[0] + margin) * scale, (p[1] - low[1] + margin) * scale];
  let k = 0;
  function frame() {
    if (mine !== run) return;
    for (let n = +document.getElementById("speed").value; n > 0 && k < points.length; n--, k++) {
      const here = place(points[k]), down = k > 0 && !points[k - 1][2];
      c.beginPath(); c.moveTo(...(down ? place(points[k - 1]) : here)); c.lineTo(...here); c.stroke();
    }
    if (k < points.length) requestAnimationFrame(frame);
  }
  frame();
}
document.getElementById("again").onclick = replay;
const pad = document.getElementById("pad"); let pen = sized(pad, 0.25), drawn = [], last = null;
function spot(e) {
  const box = pad.getBoundingClientRect();
  return [e.clientX - box.left, e.clientY - box.top];
}
function told() {
  document.getElementById("count").textContent = drawn.length ? drawn.length + " points" : "no points";
}
pad.onpointerdown = e => { pad.setPointerCapture(e.pointerId); last = spot(e); drawn.push([...last, 0]); told(); };
pad.onpointermove = e => {
  if (!last) return;
  const here = spot(e);
  pen.beginPath(); pen.moveTo(last[0] * dpr, last[1] * dpr); pen.lineTo(here[0] * dpr, here[1] * dpr); pen.stroke();
  last = here; drawn.push([...here, 0]); told();
};
pad.onpointerup = pad.onpointercancel = () => { if (last) drawn[drawn.length - 1][2] = 1; last = null; };
document.getElementById("clear").onclick = () => { drawn = []; last = null; pen = sized(pad, 0.25); told(); };
document.getElementById("save").onclick = () => {
  const rows = drawn.map((p, k) => k ? [p[0] - drawn[k - 1][0], p[1] - drawn[k - 1][1], p[2]] : [0, 0, p[2]]);
  const file = JSON.stringify({ text: document.getElementById("text").value, strokes: rows });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([file], { type: "application/json" }));
  link.download = "strokes.json"; link.click();
};
replay();
</script></body></html>
"""


def replay_page(line: Strokes, title: str | None = None) -> str:
    """The page, as HTML text."""
    if not len(line):
        raise ValueError("line must have at least one point")
    rows = [[round(dx, 3), round(dy, 3), int(lift)] for dx, dy, lift in line.to_array().tolist()]
    shown = title if title is not None else line.text or "handwriting"
    return _PAGE.replace("@TITLE@", html.escape(shown)).replace("@STROKES@", json.dumps(rows))


def read_drawn(path: str | Path) -> Strokes:
    """Strokes saved by the page. ValueError where the file is no such thing."""
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rows, text = np.array(content["strokes"], np.float64), content["text"]
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f'{path.name} must be JSON, {{"text": ..., "strokes": [[dx, dy, lift], ...]}}') from error
    return Strokes.from_array(rows, str(text) or None)
