// Parts that the stage of one run and the stage of a pair share: head, empty state, colour choice, files.

const reducedMotion = window.matchMedia("(prefers-reduced-motion: reduce)");

function emptyStage() {
  return h("div", { class: "empty" },
    h("div", { class: "empty-mark", "aria-hidden": "true" }, h("i"), h("i"), h("i")),
    h("h2", {}, fixed.empty_title), h("p", {}, fixed.empty_hint));
}

/** Title, facts and the link to what is shown; `query()` gives the link's parameters. */
function stageHead({ title, facts, query }) {
  const share = h("button", { type: "button", class: "plain" }, icon(ICONS.link), h("span", {}, "Copy link"));
  share.addEventListener("click", async () => {
    const link = new URL(location.href);
    link.search = new URLSearchParams(query()).toString();
    const label = share.lastChild;
    try {
      await navigator.clipboard.writeText(link.href);
      label.textContent = "Link copied";
    } catch {
      history.replaceState(null, "", link);
      label.textContent = "Link is in the address bar";
    }
    setTimeout(() => { label.textContent = "Copy link"; }, 2200);
  });
  return h("header", { class: "stage-head" },
    h("div", {}, h("h2", {}, title), h("p", { class: "facts" }, facts.map((fact) => h("span", {}, fact)))), share);
}

/** Buttons to colour by, and the legend of the colour that is on. `onPick(index)` is called for a press. */
function colourChoice({ colours, missing, onPick }) {
  const legend = h("span", { class: "legend" });
  const buttons = colours.map((colour, i) => segment(colour.name, i === 0, () => onPick(i)));
  const absent = missing.map((name) => h("button", { type: "button", disabled: true, title: "This run has no data for it" }, name));
  return {
    segments: h("span", { class: "segments", role: "group", "aria-label": "Colour by" }, buttons, absent),
    legend,
    show(i) {
      const ends = colours[i].legend.split(" · ");
      buttons.forEach((button, j) => button.setAttribute("aria-pressed", String(i === j)));
      legend.replaceChildren(...(colours[i].legend
        ? [h("span", {}, ends[0]), h("i", { class: `ramp ${colours[i].id}` }), h("span", {}, ends[1])] : []));
    },
  };
}

/** The pane of a video: the video, the map that may cover it, and what `extra` adds. */
function createVideoPane({ url, size, click, extra }) {
  const video = url && h("video", { src: url, muted: true, playsinline: true, loop: true, preload: "auto" });
  if (video) video.muted = true;
  const map = h("div", { class: "map", "aria-hidden": "true" });
  return {
    video,
    node: h("figure", { class: "pane video-pane", style: `aspect-ratio:${size[1]} / ${size[0]}`, click }, video, map, extra),
    /** Cover the video with a frame of a map, or show the video itself. */
    show({ colour, maps, frame, frames }) {
      const isShown = colour !== "rgb" || !video;
      map.hidden = !isShown;
      if (isShown) showCell(map, { url: maps[colour], frame, frames });
    },
  };
}

/** The pane of a 4D player with its two tools. */
function createScenePane(player, extra) {
  const node = h("figure", { class: "pane scene-pane" }, player.node, extra,
    h("div", { class: "pane-tools" },
      iconButton("layers", "Show and hide parts of the scene", () => player.toggleLayers()),
      iconButton("expand", "Full screen", () => (document.fullscreenElement ? document.exitFullscreen() : node.requestFullscreen?.()))));
  return node;
}

/** The files to take away. */
function fileList(files) {
  return h("ul", { class: "files" }, files.map((file) =>
    h("li", {}, h("a", { href: file.url, download: file.saveAs ?? file.file, title: file.hint },
      icon(ICONS.download), h("span", {}, file.label), h("small", {}, file.size)))));
}

/** A reload comes back to what is shown. */
function rememberInAddress(name, id) {
  const here = new URL(location.href);
  for (const other of ["run", "pair", "frame"]) here.searchParams.delete(other);
  here.searchParams.set(name, id);
  history.replaceState(null, "", here);
}

/** Keep a stage's component in step with its value. `open(value)` draws it and returns what takes it away. */
function followValue(root, open) {
  let close = () => {};
  function show(value) {
    close();
    close = () => {};
    const isFirst = root.dataset.run === undefined;
    root.dataset.run = value?.id ?? "";
    if (!value) return root.replaceChildren(emptyStage());
    close = open(value);
    // On a phone the stage stands below the form that was just sent.
    if (!isFirst && isNarrow()) root.scrollIntoView({ block: "start", behavior: reducedMotion.matches ? "auto" : "smooth" });
  }
  show(props.value);
  watch("value", () => show(props.value));
}

/** Players follow the theme. Returns what ends that. */
function followTheme(players) {
  const theme = new MutationObserver(() => players.forEach((player) => player.repaint()));
  theme.observe(document.body, { attributes: true, attributeFilter: ["class"] });
  return () => theme.disconnect();
}
