"use strict";
const lines = JSON.parse(document.getElementById("slider").dataset.lines);
const put = (id, text) => { document.getElementById(id).textContent = text; };
function show() {
  const n = Number(document.getElementById("line").value);
  const at = lines.thresholds[n], answered = lines.answered[n], right = lines.right[n];
  put("at", at.toFixed(2));
  put("answered", Math.round(100 * answered));
  put("right", right === null ? "–" : Math.round(100 * right));
  put("handed", 100 - Math.round(100 * answered));
  const list = document.getElementById("crossing");
  list.replaceChildren(...lines.examples
    .slice().sort((a, b) => Math.abs(a.confidence - at) - Math.abs(b.confidence - at)).slice(0, 4)
    .sort((a, b) => b.confidence - a.confidence)
    .map((one) => {
      const item = document.createElement("li");
      const fate = one.confidence >= at ? "answered" : "handed over";
      item.textContent = `“${one.query}” (${one.note}; confidence ${one.confidence.toFixed(2)}, ${fate})`;
      return item;
    }));
}
document.getElementById("line").addEventListener("input", show);
show();
