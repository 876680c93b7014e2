// The stage of one run: video, 3D, maps, curves and strips on one clock.

const root = element.querySelector(".stage");

function showRun(run) {
  let block = 0;

  // Panes and controls -------------------------------------------------------------------------------------------
  const badge = h("span", { class: "badge" });
  const pane = createVideoPane({ url: run.video, size: run.size, click: () => clock.toggle(), extra: badge });
  const player = createPlayer({ page: fixed.player, recording: run.recording, frames: run.frames, fps: run.fps, onKey: (event) => keys.onKey(event) });
  const colours = colourChoice({ colours: run.colours, missing: run.missingColours, onPick: paint });
  const clock = createClock({ videos: pane.video ? [pane.video] : [], frames: run.frames, fps: run.fps, show });
  const timeline = createTimeline({ run, plotly: fixed.plotly, onSeek: clock.seek });
  const keys = bindKeys(root, clock, run.frames - 1);

  root.replaceChildren(
    stageHead({ title: run.title, facts: run.facts, query: () => ({ run: run.id, frame: clock.frame() }) }),
    h("div", { class: "toolbar" }, colours.segments, colours.legend),
    h("div", { class: "panes" }, pane.node, createScenePane(player)),
    h("div", { class: "transport" }, clock.buttons, worstChips(run, clock.seek)),
    timeline.node, details(run));
  root.style.setProperty("--video-aspect", run.size[1] / run.size[0]);
  const ignoreTheme = followTheme([player]);

  function show(frame) {
    root.dataset.frame = frame;
    player.seek(frame, block);
    showMap();
    timeline.show(frame);
    badge.textContent = `${frame}`;
  }
  function paint(i) {
    block = i;
    root.dataset.colour = run.colours[i].id;
    colours.show(i);
    player.seek(Math.max(clock.frame(), 0), block);
    showMap();
  }
  function showMap() {
    pane.show({ colour: run.colours[block].id, maps: run.maps, frame: Math.max(clock.frame(), 0), frames: run.frames });
  }

  paint(0);
  clock.go(run.frame);
  rememberInAddress("run", run.id);
  if (!reducedMotion.matches && run.frame === 0) clock.play();

  return () => {
    clock.close();
    keys.remove();
    ignoreTheme();
    timeline.remove();
  };
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
  return h("div", { class: "details" }, table,
    h("section", { class: "card" }, h("h3", {}, "Take it with you"), fileList(run.downloads)));
}

followValue(root, showRun);
