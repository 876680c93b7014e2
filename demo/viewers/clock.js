// ONE clock. `go(frame)` is the only way to change the frame; everything that shows a frame does so in `show(frame)`.
// While the first video plays, it is the clock: `show` is called for every new frame, and other videos are held to it.

const LARGEST_DRIFT_SECONDS = 0.06;

/** The clock of some videos of one length (or of none: then it keeps time itself). */
function createClock({ videos, frames, fps, show }) {
  const last = frames - 1;
  const [lead, ...others] = videos;
  let frame = -1;
  let isAlive = true;
  // Without a video: the moment at which frame 0 began, or null.
  let began = null;

  const buttons = createTransport({ toggle, step });
  const middle = (k) => (k + 0.5) / fps;
  const isPlaying = () => (lead ? !lead.paused : began !== null);

  function go(k, isFromVideo = false) {
    k = Math.min(last, Math.max(0, Math.round(k)));
    if (k === frame) return;
    frame = k;
    if (!isFromVideo) for (const video of videos) video.currentTime = middle(k);
    show(k);
  }
  function seek(k) { pause(); go(k); }
  function step(by) { seek(frame + by); }

  function play() {
    if (!lead) {
      began = performance.now() - 1000 * middle(frame);
      return follow();
    }
    for (const video of others) { video.currentTime = lead.currentTime; video.play().catch(() => {}); }
    lead.play().catch(() => {});
  }
  function pause() {
    for (const video of videos) video.pause();
    began = null;
    buttons.show(isPlaying());
  }
  /** A paused video stands in the middle of a frame, so that a seek to the same frame changes nothing. */
  function snap() { for (const video of videos) video.currentTime = middle(frame); }
  function toggle() { if (isPlaying()) { pause(); snap(); } else play(); }

  /** Called for every display frame while something plays, and not at all while nothing does. */
  function tick() {
    if (!isAlive || !isPlaying()) return buttons.show(isPlaying());
    const seconds = lead ? lead.currentTime : (performance.now() - began) / 1000;
    for (const video of others) {
      if (Math.abs(video.currentTime - seconds) > LARGEST_DRIFT_SECONDS && !video.seeking) video.currentTime = seconds;
    }
    go(Math.floor(seconds * fps + 1e-3) % frames, true);
    requestAnimationFrame(tick);
  }
  function follow() { buttons.show(isPlaying()); tick(); }
  lead?.addEventListener("play", follow);
  lead?.addEventListener("pause", () => buttons.show(isPlaying()));

  return {
    go, seek, step, play, pause, toggle,
    frame: () => frame,
    buttons: buttons.node,
    close() { isAlive = false; pause(); },
  };
}

/** Previous, play, next. */
function createTransport({ toggle, step }) {
  const playButton = iconButton("play", "Play (space)", toggle);
  playButton.classList.add("play");
  const node = h("span", { class: "buttons" },
    iconButton("previous", "Previous frame (←)", () => step(-1)), playButton, iconButton("next", "Next frame (→)", () => step(1)));
  return {
    node,
    show(isPlaying) {
      const state = isPlaying ? "pause" : "play";
      if (playButton.dataset.icon === state) return;
      playButton.dataset.icon = state;
      playButton.replaceChildren(icon(ICONS[state]));
      playButton.title = state === "play" ? "Play (space)" : "Pause (space)";
      playButton.setAttribute("aria-label", playButton.title);
    },
  };
}

/** Space, arrows, Home and End while the stage is seen and nobody types. Returns `{ onKey, remove }`. */
function bindKeys(root, clock, lastFrame) {
  function onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || root.offsetParent === null) return;
    if (isTyping(event.target)) return;
    const onButton = event.target.closest?.("button, summary, a");
    if (event.target.closest?.("[role=tab]") && event.key.startsWith("Arrow")) return;
    const action = { ArrowLeft: () => clock.step(-1), ArrowRight: () => clock.step(1), Home: () => clock.seek(0),
      End: () => clock.seek(lastFrame), " ": onButton ? null : clock.toggle }[event.key];
    if (!action) return;
    event.preventDefault();
    event.stopPropagation();
    action();
  }
  document.addEventListener("keydown", onKey);
  return { onKey, remove: () => document.removeEventListener("keydown", onKey) };
}

function isTyping(target) {
  return target.matches?.("textarea, select, [contenteditable=true], input:not([type=range]):not([type=checkbox]):not([type=radio])");
}
