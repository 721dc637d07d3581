// Pads to draw on, by mouse, finger, pen or keyboard. `drawings` holds the strokes of each pad: lists of
// [x, y] in 0 … 1. Keys: arrows move the pen, space puts it down and lifts it, Backspace clears the pad.

const SIZE = 132, STEP = 0.03;

function pad(model, index, title) {
  const box = document.createElement("div");
  const canvas = document.createElement("canvas");
  const clear = document.createElement("button");
  const context = canvas.getContext("2d");
  let strokes = structuredClone(model.get("drawings")[index] || []);
  let pen = [0.5, 0.5], down = false, focused = false;

  box.style.cssText = "margin: 4px 8px; text-align: center; font: 13px sans-serif";
  box.append(Object.assign(document.createElement("div"), { textContent: title }), canvas, clear);
  clear.textContent = "clear";
  clear.setAttribute("aria-label", `clear ${title}`);
  canvas.width = canvas.height = SIZE * 2;
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "img");
  canvas.style.cssText =
    `width: ${SIZE}px; height: ${SIZE}px; border: 1px solid #888; background: white; display: block;` +
    "touch-action: none; cursor: crosshair; margin: 3px 0";

  function draw() {
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.lineWidth = canvas.width * 0.03;
    context.lineCap = context.lineJoin = "round";
    context.strokeStyle = "black";
    for (const stroke of strokes) {
      context.beginPath();
      for (const [x, y] of [...stroke, stroke[stroke.length - 1]])
        context.lineTo(x * canvas.width, y * canvas.height);
      context.stroke();
    }
    if (focused) {
      context.fillStyle = down ? "#d55e00" : "#0173b2";
      context.beginPath();
      context.arc(pen[0] * canvas.width, pen[1] * canvas.height, 7, 0, 7);
      context.fill();
    }
    canvas.style.outline = focused ? "2px solid #0173b2" : "none";
    canvas.setAttribute("aria-label", `${title}: ${strokes.length} strokes. Arrow keys move the pen, ` +
      `space ${down ? "lifts it" : "puts it down"}, Backspace clears.`);
  }

  function keep() {
    const all = structuredClone(model.get("drawings"));
    all[index] = structuredClone(strokes);
    model.set("drawings", all);
    model.save_changes();
  }

  function empty() {
    strokes = [];
    down = false;
    draw();
    keep();
  }

  const place = (event) => {
    const area = canvas.getBoundingClientRect();
    return [(event.clientX - area.left) / area.width, (event.clientY - area.top) / area.height];
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    down = true;
    strokes.push([(pen = place(event))]);
    draw();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!down || !event.buttons) return;
    strokes[strokes.length - 1].push((pen = place(event)));
    draw();
  });
  for (const name of ["pointerup", "pointercancel"])
    canvas.addEventListener(name, () => {
      if (down) keep();
      down = false;
      draw();
    });

  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  canvas.addEventListener("keydown", (event) => {
    if (event.key in moves) {
      pen = pen.map((at, axis) => Math.min(1, Math.max(0, at + STEP * moves[event.key][axis])));
      if (down) strokes[strokes.length - 1].push(pen);
    } else if (event.key === " ") {
      down = !down;
      if (down) strokes.push([pen]);
      else keep();
    } else if (event.key === "Backspace" || event.key === "Delete") {
      empty();
    } else return;
    event.preventDefault();
    event.stopPropagation(); // JupyterLab has meanings of its own for these keys
    draw();
  });
  canvas.addEventListener("focus", () => { focused = true; draw(); });
  canvas.addEventListener("blur", () => {
    if (down) keep();
    focused = down = false;
    draw();
  });
  clear.addEventListener("click", empty);
  draw();
  return box;
}

export default {
  render({ model, el }) {
    const row = document.createElement("div");
    row.style.cssText = "display: flex; flex-flow: row wrap";
    // JupyterLab takes keys away from what it does not know as a place to type in.
    row.setAttribute("data-lm-suppress-shortcuts", "true");
    model.get("titles").forEach((title, index) => row.append(pad(model, index, title)));
    el.append(row);
  },
};
