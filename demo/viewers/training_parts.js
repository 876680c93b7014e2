// The board's curves and its grid of samples.

/** One column of curves over the iterations: `show` draws or updates it; hovering reads every row at one iteration. */
function createColumn() {
  const node = h("section", { class: "card chart" });
  const labels = h("div", { class: "curve-labels" });
  const plot = h("div", { class: "curves", role: "img" });
  const head = h("i", { class: "now-line", hidden: true });
  const title = h("h3", {});
  node.append(title, h("div", { class: "plot" }, labels, h("div", { class: "plot-area" }, plot, head)));
  let rows = [];
  let iterations = [];
  let hovered = null;
  let isBound = false;
  let drawn = "";

  function read() {
    const at = hovered === null ? iterations.length - 1 : iterations.indexOf(hovered);
    labels.querySelectorAll(".curve-label").forEach((label, i) => {
      const row = rows[i];
      const values = row.values ?? [];
      const k = hovered === null ? lastKnown(values) : at;
      label.querySelector(".now").textContent = values[k] ?? "–";
      const spread = label.querySelector(".spread");
      if (spread) spread.textContent = values[k] && values[k] !== "–" ? ` ± ${row.spread[k]}` : "";
      const held = label.querySelector(".held");
      if (held) held.textContent = `held out ${row.heldOut[hovered === null ? lastKnown(row.heldOut) : at] ?? "–"}`;
    });
    title.lastChild.textContent = hovered === null ? "" : `iteration ${hovered}`;
  }

  async function draw(figure) {
    try {
      await loadScript(props.plotly);
    } catch {
      plot.textContent = "The curves could not be drawn; metrics.jsonl holds their numbers.";
      return;
    }
    await window.Plotly.react(plot, figure.data, figure.layout, { displayModeBar: false });
    fit();
    if (isBound) return;
    isBound = true;
    plot.on("plotly_hover", (event) => hover(event.points[0].x));
    plot.on("plotly_unhover", () => hover(null));
    new ResizeObserver(oncePerFrame(fit)).observe(plot);
  }

  /** A line at the iteration under the pointer, over all rows. */
  function hover(iteration) {
    hovered = iteration;
    head.hidden = iteration === null;
    const axis = plot._fullLayout?.xaxis;
    if (iteration !== null && axis) head.style.left = `${axis._offset + axis.l2p(iteration)}px`;
    read();
  }

  function fit() {
    const width = plot.clientWidth;
    if (width && plot._fullLayout && plot._fullLayout.width !== width) window.Plotly.relayout(plot, { width });
  }

  return {
    node,
    show(column, steps) {
      rows = column.rows;
      iterations = steps;
      node.hidden = !column.figure;
      if (!column.figure) return;
      node.style.setProperty("--rows", rows.length);
      plot.style.height = `${column.figure.layout.height}px`;
      plot.setAttribute("aria-label", `${column.title} by iteration: ${rows.map((row) => row.label).join(", ")}`);
      title.replaceChildren(h("span", {}, column.title), h("span", { class: "hint" }));
      labels.replaceChildren(...rows.map((row) => h("div", { class: "curve-label", title: row.tip },
        h("b", {}, row.label), h("span", {}, h("output", { class: "now" }), row.spread ? h("small", { class: "spread" }) : null), row.heldOut ? h("small", { class: "held" }) : null)));
      read();
      const key = JSON.stringify(column.figure);
      if (key === drawn) return;
      drawn = key;
      draw(column.figure);
    },
  };
}

function lastKnown(values) {
  for (let i = values.length - 1; i >= 0; i--) if (values[i] !== "–") return i;
  return -1;
}

/** Rows of videos at fixed seeds: the base model first, then the adapter as it grows. All play on one clock. */
function createSamples(card) {
  const table = h("div", { class: "sample-table" });
  const cells = new Map();
  let columns = "";

  // Only videos that can be seen play; the others are not even fetched.
  const observer = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting && !target.src) target.src = target.dataset.src;
      if (isIntersecting && !calm) target.play().catch(() => {});
      else target.pause();
    }
  }, { rootMargin: "80px" });

  function video(url, label) {
    const node = h("video", { "data-src": url, muted: true, playsinline: true, loop: true, preload: "auto", "aria-label": label, title: label });
    node.muted = true;
    observer.observe(node);
    return node;
  }

  // One clock: whoever runs ahead of the first playing video is set back to it.
  setInterval(() => {
    const playing = [...cells.values()].filter((node) => !node.paused && node.readyState >= 2);
    if (playing.length < 2 || table.offsetParent === null) return;
    const now = playing[0].currentTime;
    for (const node of playing.slice(1)) if (Math.abs(node.currentTime - now) > 0.12) node.currentTime = now;
  }, 700);

  return {
    clear() {
      for (const node of cells.values()) observer.unobserve(node);
      cells.clear();
      columns = "";
      table.replaceChildren();
    },
    show(rows) {
      card.hidden = !rows.length;
      if (!rows.length) return;
      const key = JSON.stringify(rows);
      if (key === columns) return;
      columns = key;
      if (!card.childElementCount) card.append(h("h3", {}, "The same seeds, as the adapter learns"), h("div", { class: "sample-scroll" }, table));
      const steps = [...new Set(rows.flatMap((row) => row.cells.map((cell) => cell.step ?? -1)))].sort((a, b) => a - b);
      table.style.setProperty("--steps", steps.length);
      const heads = steps.map((step) => h("div", { class: step < 0 ? "column-head base" : "column-head" }, step < 0 ? "Base" : `after ${step}`));
      const body = rows.flatMap((row) => [
        h("div", { class: "sample-name" }, h("p", {}, row.name, h("small", {}, ` · seed ${row.seed}`))),
        ...steps.map((step) => {
          const cell = row.cells.find((item) => (item.step ?? -1) === step);
          const label = step < 0 ? `${row.name}, base model` : `${row.name}, after iteration ${step}`;
          if (cell && !cells.has(cell.url)) cells.set(cell.url, video(cell.url, label));
          return h("div", { class: step < 0 ? "cell-video base" : "cell-video" }, cell ? cells.get(cell.url) : null);
        })]);
      table.replaceChildren(...heads, ...body);
      const scroll = table.parentElement;
      scroll.scrollLeft = scroll.scrollWidth;
    },
  };
}
