// The timeline: scrubber, reward curves and film strips under one playhead, all on the same frame axis.

const CELL_WIDTH = 32;

/** Rows over one frame axis. `onSeek(frame)` is called for every hover, click and drag. */
function createTimeline({ run, plotly, onSeek }) {
  const last = run.frames - 1;
  const tracks = [];
  const grid = h("div", { class: "timeline", role: "group", "aria-label": "Timeline" });
  grid.style.setProperty("--frames", run.frames);

  let row = 0;
  function place(node, column, extra = "") {
    node.style.cssText += `grid-row:${row};grid-column:${column};${extra}`;
    grid.append(node);
    return node;
  }

  // Scrubber -----------------------------------------------------------------------------------------------------
  row += 1;
  const counter = place(h("div", { class: "row-label counter" }), 1);
  const scrub = h("input", { type: "range", class: "scrub", min: 0, max: last, step: 1, value: 0, "aria-label": "Frame",
    input: (event) => onSeek(Number(event.target.value)) });
  place(h("div", { class: "scrub-row" }, scrub, run.worst.map((mark) => h("i", { class: "mark", style: at(mark.frame) }))), 2);

  // Curves -------------------------------------------------------------------------------------------------------
  row += 1;
  const nowValues = run.terms.map(() => h("output", { class: "now" }));
  const labels = run.terms.map((term, i) =>
    h("div", { class: "curve-label", title: term.tip }, h("b", {}, term.label), nowValues[i]));
  const plot = h("div", { class: "curves", role: "img", "aria-label": `Rewards frame by frame: ${run.terms.map((term) => term.label).join(", ")}` });
  plot.style.height = `${run.figure.layout.height}px`;
  grid.style.setProperty("--curves-height", plot.style.height);
  place(h("div", { class: "curve-labels" }, labels), 1);
  place(plot, "2 / 4");
  drawCurves(plot, { run, plotly, onSeek });

  // Strips -------------------------------------------------------------------------------------------------------
  for (const { name, label, url } of run.strips) {
    row += 1;
    place(h("div", { class: "row-label" }, label), 1);
    const strip = place(h("div", { class: "strip", "data-map": name }), 2);
    dragToSeek(strip, { frames: run.frames, onSeek });
    tracks.push({ strip, url });
  }
  const playhead = h("div", { class: "playhead", "aria-hidden": "true" }, h("i"));
  playhead.style.cssText = `grid-row:1 / span ${row};grid-column:2`;
  grid.append(playhead);

  let shown = 0;
  const fill = () => { for (const { strip, url } of tracks) fillStrip(strip, { run, url }); highlight(); };
  function highlight() {
    for (const cell of grid.querySelectorAll(".cell")) {
      cell.toggleAttribute("data-now", shown >= Number(cell.dataset.from) && shown <= Number(cell.dataset.to));
    }
  }
  // A run may be opened while its tab is hidden: everything takes its size when it is first seen.
  const observer = new ResizeObserver(oncePerFrame(() => { fill(); fitCurves(plot); }));
  [plot, ...tracks.map(({ strip }) => strip)].forEach((part) => observer.observe(part));

  function at(frame) { return `left:${(100 * (frame + 0.5)) / run.frames}%`; }

  return {
    node: grid,
    show(frame) {
      shown = frame;
      scrub.value = frame;
      scrub.setAttribute("aria-valuetext", `frame ${frame} of ${last}`);
      counter.replaceChildren(h("b", {}, `Frame ${frame}`), h("span", {}, `of ${last} · ${(frame / run.fps).toFixed(2)} s`));
      run.terms.forEach((term, i) => nowValues[i].replaceChildren(...valuesAt(term, frame)));
      playhead.firstChild.style.cssText = at(frame);
      playhead.dataset.frame = frame;
      highlight();
    },
    remove() { observer.disconnect(); window.Plotly?.purge(plot); },
  };
}

/** A term's value at a frame: one, or for a pair one a side. */
function valuesAt(term, frame) {
  return [term.perFrame[frame] ?? "–"].flat().map((value) => h("span", {}, value));
}

/** plotly draws the figure; hovering anywhere over it seeks. */
async function drawCurves(plot, { run, plotly, onSeek }) {
  try {
    await loadScript(plotly);
  } catch (error) {
    plot.textContent = "The curves could not be drawn; rewards.csv holds their numbers.";
    return;
  }
  if (!plot.isConnected) await new Promise((resolve) => requestAnimationFrame(resolve));
  const layout = structuredClone(run.figure.layout);
  if (isNarrow()) leaveRoomForLabels(layout, run.terms.length);
  await window.Plotly.newPlot(plot, run.figure.data, layout, { displayModeBar: false });
  fitCurves(plot);
  plot.on("plotly_hover", (event) => onSeek(event.points[0].x));
  plot.on("plotly_click", (event) => onSeek(event.points[0].x));
}

/** The figure as wide as its place; nothing while it is hidden or not drawn yet. */
function fitCurves(plot) {
  const width = plot.clientWidth;
  if (width && plot._fullLayout && plot._fullLayout.width !== width) window.Plotly.relayout(plot, { width });
}

/** On a phone the rows' names stand above their curves instead of beside them. */
function leaveRoomForLabels(layout, rows) {
  for (let row = 0; row < rows; row++) {
    layout[row ? `yaxis${row + 1}` : "yaxis"].domain = [1 - (row + 0.94) / rows, 1 - (row + 0.38) / rows];
  }
}

function isNarrow() {
  return window.matchMedia("(max-width: 760px)").matches;
}

/** As many thumbnails as fit; each stands for a run of frames. */
function fillStrip(strip, { run, url }) {
  const width = strip.clientWidth;
  if (!width) return;
  const count = Math.max(1, Math.min(run.frames, Math.floor(width / CELL_WIDTH)));
  if (strip.childElementCount === count) return;
  strip.style.setProperty("--cells", count);
  strip.style.setProperty("--aspect", run.size[1] / run.size[0]);
  strip.replaceChildren(...Array.from({ length: count }, (_, i) => {
    const from = Math.floor((i * run.frames) / count);
    const to = Math.floor(((i + 1) * run.frames) / count) - 1;
    const middle = Math.floor((from + to) / 2);
    const cell = h("button", { type: "button", class: "cell", tabindex: -1, "data-from": from, "data-to": to,
      title: `Frame ${middle}`, "aria-label": `Go to frame ${middle}` });
    showCell(cell, { url, frame: middle, frames: run.frames });
    return cell;
  }));
}

/** Show one frame of a strip image (all frames side by side) as the background of a node. */
function showCell(node, { url, frame, frames }) {
  node.style.backgroundImage = `url("${url}")`;
  node.style.backgroundSize = `${100 * frames}% 100%`;
  node.style.backgroundPosition = frames > 1 ? `${(100 * frame) / (frames - 1)}% 0` : "0 0";
}

/** Press or drag anywhere on a track to seek. */
function dragToSeek(track, { frames, onSeek }) {
  const seek = (event) => {
    const box = track.getBoundingClientRect();
    const share = (event.clientX - box.left) / box.width;
    onSeek(Math.min(frames - 1, Math.max(0, Math.floor(share * frames))));
  };
  track.addEventListener("pointerdown", (event) => { track.setPointerCapture(event.pointerId); seek(event); });
  track.addEventListener("pointermove", (event) => { if (event.buttons) seek(event); });
}
