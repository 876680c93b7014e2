// The stage of a pair: two videos, two 4D scenes and the rewards of both on ONE clock. The base video leads.

const root = element.querySelector(".stage");
const MODES = [["side", "Side by side"], ["wipe", "Wipe"], ["difference", "Difference"]];
let mode = "side";

function showPair(pair) {
  let block = 0;

  // Panes and controls -------------------------------------------------------------------------------------------
  const panes = pair.sides.map((side) =>
    createVideoPane({ url: side.video, size: pair.size, click: () => clock.toggle(), extra: h("span", { class: "badge" }, side.label) }));
  const players = pair.sides.map((side) =>
    createPlayer({ page: fixed.player, recording: side.recording, frames: pair.frames, fps: pair.fps, onKey: (event) => keys.onKey(event) }));
  const videos = h("div", { class: "videos" }, panes.map((pane) => pane.node), h("i", { class: "divider", "aria-hidden": "true" }));
  const scenes = players.map((player, i) => createScenePane(player, h("span", { class: "badge" }, pair.sides[i].label)));
  const modes = MODES.map(([name, label]) => segment(label, name === mode, () => setMode(name)));
  const colours = colourChoice({ colours: pair.colours, missing: pair.missingColours, onPick: paint });
  const clips = panes.map((pane) => pane.video).filter(Boolean);
  const clock = createClock({ videos: clips.length === panes.length ? clips : [], frames: pair.frames, fps: pair.fps, show });
  const timeline = createTimeline({ run: pair, plotly: fixed.plotly, onSeek: clock.seek });
  const keys = bindKeys(root, clock, pair.frames - 1);
  const bars = createBars(pair);

  root.replaceChildren(
    stageHead({ title: pair.title, facts: pair.facts, query: () => ({ pair: pair.id, frame: clock.frame() }) }),
    h("div", { class: "toolbar" },
      h("span", { class: "segments", role: "group", "aria-label": "Compare the videos" }, modes), colours.segments, colours.legend),
    h("div", { class: "pair-panes" }, videos, scenes),
    h("div", { class: "transport" }, clock.buttons, sideKey(pair), gapChips(pair, clock.seek)),
    timeline.node,
    h("div", { class: "details" }, bars.node, takeAway(pair)));
  root.style.setProperty("--video-aspect", pair.size[1] / pair.size[0]);
  const ignoreTheme = followTheme(players);
  followPointer(videos);
  const unlink = linkViews(players);

  function show(frame) {
    root.dataset.frame = frame;
    players.forEach((player, i) => player.seek(frame, blockOf(i)));
    showMaps();
    timeline.show(frame);
    bars.show(frame);
  }
  function blockOf(side) { return pair.sides[side].blocks[pair.colours[block].id]; }
  function paint(i) {
    block = i;
    root.dataset.colour = pair.colours[i].id;
    colours.show(i);
    players.forEach((player, side) => player.seek(Math.max(clock.frame(), 0), blockOf(side)));
    showMaps();
  }
  function showMaps() {
    panes.forEach((pane, i) => pane.show({ colour: pair.colours[block].id, maps: pair.sides[i].maps, frame: Math.max(clock.frame(), 0), frames: pair.frames }));
  }
  function setMode(name) {
    mode = name;
    root.dataset.mode = name;
    modes.forEach((button, i) => button.setAttribute("aria-pressed", String(MODES[i][0] === name)));
  }

  setMode(mode);
  paint(0);
  clock.go(pair.frame);
  rememberInAddress("pair", pair.id);
  if (!reducedMotion.matches && pair.frame === 0) clock.play();

  return () => {
    clock.close();
    keys.remove();
    ignoreTheme();
    unlink();
    timeline.remove();
  };
}

/** The wipe's edge follows the pointer, or a finger that drags. */
function followPointer(videos) {
  videos.addEventListener("pointermove", (event) => {
    const box = videos.getBoundingClientRect();
    const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    videos.style.setProperty("--wipe", `${(100 * share).toFixed(1)}%`);
  });
}

/** Which line and bar is which side. */
function sideKey(pair) {
  return h("span", { class: "side-key" }, pair.sides.map((side) =>
    h("span", { "data-side": side.name }, h("i", { "aria-hidden": "true" }), h("span", {}, side.label))));
}

/** The frame at which each reward differs most. */
function gapChips(pair, go) {
  const marks = pair.worst;
  if (!marks.length) return h("span", { class: "chips" });
  return h("span", { class: "chips", "aria-label": "Frames with the largest difference" },
    h("span", { class: "chips-title" }, "Largest gap"),
    marks.map((mark) => h("span", { class: "chip-group" }, h("span", {}, mark.term),
      h("button", { type: "button", class: "chip", title: `${mark.term}: go to frame ${mark.frame}`, click: () => go(mark.frame) }, String(mark.frame)))));
}

/** Values of the whole videos, their difference, and both sides at the chosen frame as bars. */
function createBars(pair) {
  const where = h("span", {});
  const cells = pair.terms.map(() => h("td", { class: "bars" }));
  const rows = pair.terms.map((term, i) => h("tr", {},
    h("th", { scope: "row", title: term.tip }, term.label),
    term.values.map((value, side) => h("td", { class: "num", "data-side": pair.sides[side].name }, value)),
    h("td", { class: "num change" }, term.difference), cells[i]));
  const guards = pair.guards.map((guard) => h("tr", {},
    h("th", { scope: "row", title: guard.tip }, guard.label),
    guard.values.map((value, side) => h("td", { class: "num", "data-side": pair.sides[side].name }, value)),
    h("td", { class: "num change" }, guard.difference), h("td", {})));
  const head = h("tr", {}, h("th", { scope: "col" }, "Reward"),
    pair.sides.map((side) => h("th", { scope: "col", class: "num", title: side.label }, side.name === "base" ? "Base" : "Tuned")),
    h("th", { scope: "col", class: "num" }, "Change"), h("th", { scope: "col" }, where));
  const node = h("section", { class: "card" }, h("h3", {}, "Rewards of both"),
    h("table", { class: "paired" }, h("thead", {}, head), h("tbody", {}, rows),
      guards.length ? h("tbody", {}, h("tr", { class: "group" }, h("th", { colspan: 5, scope: "colgroup" }, "Guards · not rewards")), guards) : null));
  return {
    node,
    show(frame) {
      where.textContent = `At frame ${frame}`;
      pair.terms.forEach((term, i) => {
        const shares = term.shares[frame] ?? [null, null];
        cells[i].replaceChildren(...shares.map((share, side) =>
          h("span", { class: "bar", "data-side": pair.sides[side].name, title: `${pair.sides[side].label}: ${term.perFrame[frame]?.[side] ?? "–"}` },
            h("i", { style: `width:${100 * (share ?? 0)}%` }))));
      });
    },
  };
}

/** Files of both sides, and each side on a stage of its own. */
function takeAway(pair) {
  return h("section", { class: "card take-away" }, h("h3", {}, "Take it with you"),
    pair.sides.map((side) => h("div", {},
      h("h4", {}, h("span", {}, side.label), h("a", { href: `?run=${encodeURIComponent(side.run)}`, title: "Open this side on a stage of its own" }, "open alone")),
      fileList(side.downloads))));
}

followValue(root, showPair);
