// The stage: draws one run and keeps ONE clock. `go(frame)` is the only way to change the frame; video, 3D, maps,
// curves and strips follow it. While the video plays, the video is the clock and `go` is called for every new frame.

const root = element.querySelector(".stage");
const reducedMotion = window.matchMedia("(prefers-reduced-motion: reduce)");
let closeRun = () => {};

function openRun(run) {
  closeRun();
  closeRun = () => {};
  const isFirst = root.dataset.run === undefined;
  root.dataset.run = run?.id ?? "";
  if (!run) return root.replaceChildren(emptyStage());
  closeRun = showRun(run);
  // On a phone the stage stands below the form that was just sent.
  if (!isFirst && isNarrow()) root.scrollIntoView({ block: "start", behavior: reducedMotion.matches ? "auto" : "smooth" });
}

function emptyStage() {
  return h("div", { class: "empty" },
    h("div", { class: "empty-mark", "aria-hidden": "true" }, h("i"), h("i"), h("i")),
    h("h2", {}, props.empty_title), h("p", {}, props.empty_hint));
}

function showRun(run) {
  let frame = -1;
  let block = 0;
  let isAlive = true;
  const last = run.frames - 1;

  // Panes --------------------------------------------------------------------------------------------------------
  const video = run.video && h("video", { src: run.video, muted: true, playsinline: true, loop: true, preload: "auto" });
  if (video) video.muted = true;
  const map = h("div", { class: "map", "aria-hidden": "true" });
  const badge = h("span", { class: "badge" });
  const videoPane = h("figure", { class: "pane video-pane", style: `aspect-ratio:${run.size[1]} / ${run.size[0]}`, click: toggle },
    video, map, badge);
  const player = createPlayer({ page: props.player, recording: run.recording, frames: run.frames, fps: run.fps, onKey: relayKey });
  const scenePane = h("figure", { class: "pane scene-pane" }, player.node,
    h("div", { class: "pane-tools" },
      iconButton("layers", "Show and hide parts of the scene", () => player.toggleLayers()),
      iconButton("expand", "Full screen", () => (document.fullscreenElement ? document.exitFullscreen() : scenePane.requestFullscreen?.()))));

  // Controls -----------------------------------------------------------------------------------------------------
  const legend = h("span", { class: "legend" });
  const colourButtons = run.colours.map((colour, i) => segment(colour.name, i === 0, () => paint(i)));
  const missing = run.missingColours.map((name) => h("button", { type: "button", disabled: true, title: "This run has no data for it" }, name));
  const colours = h("div", { class: "toolbar" },
    h("span", { class: "segments", role: "group", "aria-label": "Colour by" }, colourButtons, missing), legend);
  const playButton = iconButton("play", "Play (space)", toggle);
  playButton.classList.add("play");
  const transport = h("div", { class: "transport" },
    h("span", { class: "buttons" },
      iconButton("previous", "Previous frame (←)", () => step(-1)), playButton, iconButton("next", "Next frame (→)", () => step(1))),
    worstChips(run, (k) => { pause(); go(k); }));
  const timeline = createTimeline({ run, plotly: props.plotly, onSeek: (k) => { pause(); go(k); } });

  root.replaceChildren(head(run, () => frame), colours, h("div", { class: "panes" }, videoPane, scenePane),
    transport, timeline.node, details(run));
  root.style.setProperty("--video-aspect", run.size[1] / run.size[0]);

  // Clock --------------------------------------------------------------------------------------------------------
  function go(k, isFromVideo = false) {
    k = Math.min(last, Math.max(0, Math.round(k)));
    if (k === frame) return;
    frame = k;
    root.dataset.frame = k;
    if (video && !isFromVideo) video.currentTime = (k + 0.5) / run.fps;
    player.seek(k, block);
    showMap();
    timeline.show(k);
    badge.textContent = `${k}`;
  }

  // Without a video the stage keeps time itself; `ownClock` is the moment at which frame 0 began, or null.
  let ownClock = null;
  const isPlaying = () => (video ? !video.paused : ownClock !== null);
  function play() {
    if (video) return video.play().catch(() => {});
    ownClock = performance.now() - (1000 * (frame + 0.5)) / run.fps;
    follow();
  }
  function pause() {
    if (video) return video.pause();
    ownClock = null;
    showState();
  }
  function toggle() { if (isPlaying()) { pause(); snap(); } else play(); }
  function step(by) { pause(); go(frame + by); }
  /** A paused video stands in the middle of a frame, so that a seek to the same frame changes nothing. */
  function snap() { if (video) video.currentTime = (frame + 0.5) / run.fps; }

  /** Called for every display frame while something plays, and not at all while nothing does. */
  function tick() {
    if (!isAlive || !isPlaying()) return showState();
    const seconds = video ? video.currentTime : (performance.now() - ownClock) / 1000;
    go(Math.floor(seconds * run.fps + 1e-3) % run.frames, true);
    requestAnimationFrame(tick);
  }
  function follow() { showState(); tick(); }
  function showState() {
    const state = isPlaying() ? "pause" : "play";
    if (playButton.dataset.icon === state) return;
    playButton.dataset.icon = state;
    playButton.replaceChildren(icon(ICONS[state]));
    playButton.title = state === "play" ? "Play (space)" : "Pause (space)";
    playButton.setAttribute("aria-label", playButton.title);
  }
  video?.addEventListener("play", follow);
  video?.addEventListener("pause", showState);

  // Colours ------------------------------------------------------------------------------------------------------
  function paint(i) {
    block = i;
    const colour = run.colours[i];
    root.dataset.colour = colour.id;
    colourButtons.forEach((button, j) => button.setAttribute("aria-pressed", String(i === j)));
    const ends = colour.legend.split(" · ");
    legend.replaceChildren(...(colour.legend ? [h("span", {}, ends[0]), h("i", { class: `ramp ${colour.id}` }), h("span", {}, ends[1])] : []));
    player.seek(frame, block);
    showMap();
  }
  function showMap() {
    const colour = run.colours[block];
    const isShown = colour.id !== "rgb" || !video;
    map.hidden = !isShown;
    if (isShown) showCell(map, { url: run.maps[colour.id], frame, frames: run.frames });
  }

  // Keyboard, theme ----------------------------------------------------------------------------------------------
  function onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || root.offsetParent === null) return;
    if (isTyping(event.target)) return;
    const onButton = event.target.closest?.("button, summary, a");
    if (event.target.closest?.("[role=tab]") && event.key.startsWith("Arrow")) return;
    const action = { ArrowLeft: () => step(-1), ArrowRight: () => step(1), Home: () => { pause(); go(0); }, End: () => { pause(); go(last); },
      " ": onButton ? null : toggle }[event.key];
    if (!action) return;
    event.preventDefault();
    event.stopPropagation();
    action();
  }
  function relayKey(event) { onKey(event); }
  document.addEventListener("keydown", onKey);
  const theme = new MutationObserver(() => player.repaint());
  theme.observe(document.body, { attributes: true, attributeFilter: ["class"] });

  paint(0);
  go(run.frame);
  rememberRun(run);
  if (!reducedMotion.matches && run.frame === 0) play();

  return () => {
    isAlive = false;
    pause();
    document.removeEventListener("keydown", onKey);
    theme.disconnect();
    timeline.remove();
  };
}

function isTyping(target) {
  return target.matches?.("textarea, select, [contenteditable=true], input:not([type=range]):not([type=checkbox]):not([type=radio])");
}

/** Title, facts and the link to this run and frame. */
function head(run, currentFrame) {
  const share = h("button", { type: "button", class: "plain" }, icon(ICONS.link), h("span", {}, "Copy link"));
  share.addEventListener("click", async () => {
    const link = new URL(location.href);
    link.search = `?run=${encodeURIComponent(run.id)}&frame=${currentFrame()}`;
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
    h("div", {}, h("h2", {}, run.title), h("p", { class: "facts" }, run.facts.map((fact) => h("span", {}, fact)))), share);
}

/** The frames worth a look, by reward. */
function worstChips(run, go) {
  if (!run.worst.length) return h("span", { class: "chips" });
  const terms = [...new Set(run.worst.map((mark) => mark.term))];
  return h("span", { class: "chips", "aria-label": "Lowest frames of each reward" },
    h("span", { class: "chips-title" }, "Lowest"),
    terms.map((term) => h("span", { class: "chip-group" }, h("span", {}, term),
      run.worst.filter((mark) => mark.term === term).map((mark) =>
        h("button", { type: "button", class: "chip", title: `${term}: go to frame ${mark.frame}`, click: () => go(mark.frame) }, String(mark.frame))))));
}

/** Rewards in words, and the files to take away. */
function details(run) {
  const table = h("section", { class: "card" }, h("h3", {}, "Rewards"));
  // The markup comes from table.py, which escapes every text.
  table.insertAdjacentHTML("beforeend", run.table);
  const files = run.downloads.map((file) =>
    h("li", {}, h("a", { href: file.url, download: file.file, title: file.hint },
      icon(ICONS.download), h("span", {}, file.label), h("small", {}, file.size))));
  return h("div", { class: "details" }, table,
    h("section", { class: "card" }, h("h3", {}, "Take it with you"), h("ul", { class: "files" }, files)));
}

/** A reload comes back to the run. */
function rememberRun(run) {
  const here = new URL(location.href);
  here.searchParams.set("run", run.id);
  here.searchParams.delete("frame");
  history.replaceState(null, "", here);
}

openRun(props.value);
watch("value", () => openRun(props.value));
