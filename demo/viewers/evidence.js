// Draws the figures of the evidence when they are first seen, keeps them as wide as their place, and chooses prompts.
// One function body after dom.js; Gradio (or demo.pictures) provides `element`, evidence.py `fixed`.

const plots = [...element.querySelectorAll(".result-plot")];

async function drawPlot(plot) {
  try {
    await loadScript(fixed.plotly);
  } catch {
    plot.textContent = "This figure could not be drawn; the file below holds its numbers.";
    return;
  }
  const { data, layout } = JSON.parse(plot.dataset.figure);
  await window.Plotly.newPlot(plot, data, { ...layout, width: plot.clientWidth }, { displayModeBar: false });
}

function fitPlot(plot) {
  const width = plot.clientWidth;
  if (width && plot._fullLayout && plot._fullLayout.width !== width) window.Plotly.relayout(plot, { width });
}

// A tab that has not been opened has no width to draw in.
const seen = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting) continue;
    seen.unobserve(target);
    drawPlot(target).then(() => sizes.observe(target));
  }
}, { rootMargin: "300px" });
const sizes = new ResizeObserver((entries) => entries.forEach(({ target }) => fitPlot(target)));
if (fixed.at_once) Promise.all(plots.map(drawPlot)).then(() => element.setAttribute("data-ready", ""));
else plots.forEach((plot) => seen.observe(plot));

for (const choices of element.querySelectorAll(".result-choices")) {
  const buttons = [...choices.querySelectorAll("button")];
  const result = choices.closest(".result");
  const mine = [...result.querySelectorAll(".result-plot")];
  function choose(chosen) {
    for (const button of buttons) button.setAttribute("aria-pressed", String(button === chosen));
    for (const fact of result.querySelectorAll("[data-of]")) fact.hidden = fact.dataset.of !== chosen.dataset.clips;
    for (const plot of mine) {
      const figure = JSON.parse(plot.dataset.figure);
      for (const trace of figure.data) trace.visible = trace.meta.clips === chosen.dataset.clips;
      plot.dataset.figure = JSON.stringify(figure);
      if (plot._fullLayout) window.Plotly.restyle(plot, { visible: figure.data.map((trace) => trace.visible) });
    }
  }
  for (const button of buttons) button.addEventListener("click", () => choose(button));
}
