// viser's own client in an iframe, driven by the stage's clock. The client has no interface for that, so the stage
// types into its time box, as a visitor would; everything here fails soft if a later client changes its page.

const PLAYER_PATIENCE_MS = 30000;

/** A player for one run. `seek(frame, block)` shows a frame of a colouring; see scene_export.record_all_colours. */
function createPlayer({ page, recording, frames, fps, onKey }) {
  const base = new URL(".", document.baseURI);
  const address = new URL(page, base);
  const search = `?playbackPath=${encodeURIComponent(new URL(recording, base).pathname)}&hideViserLogo`;
  const frame = h("iframe", { title: "4D scene: drag to look around", src: address.href + search + (isDark() ? "&darkMode" : "") });
  const status = h("p", { class: "pane-note", role: "status" }, "Opening the 4D scene…");
  const node = h("div", { class: "player" }, status, frame);
  let wanted = { frame: 0, block: 0 };
  let isReady = false;

  const page3d = () => frame.contentDocument;
  const timeBox = () => page3d()?.querySelector("input");

  const type = oncePerFrame(() => {
    const box = timeBox();
    if (!box) return;
    const view = frame.contentWindow;
    const seconds = (wanted.block * frames + wanted.frame + 0.5) / fps;
    Object.getOwnPropertyDescriptor(view.HTMLInputElement.prototype, "value").set.call(box, seconds.toFixed(3));
    box.dispatchEvent(new view.Event("input", { bubbles: true }));
  });

  /** One clock, one set of controls: viser's own bar goes, its background becomes the pane's. */
  function dress() {
    const inner = page3d();
    const style = inner.createElement("style");
    style.textContent = `.mantine-Paper-root:has(> .mantine-NumberInput-root){display:none!important}
      .quiet{display:none!important}`;
    inner.head.append(style);
    dismissSoftwareNotice(inner);
    paint();
    frame.contentWindow.addEventListener("keydown", onKey, true);
    status.remove();
    node.classList.add("ready");
  }

  /** viser warns when the browser renders without a GPU; true, but not worth covering the scene. */
  function dismissSoftwareNotice(inner) {
    for (const notice of inner.querySelectorAll(".mantine-Notification-root")) {
      if (notice.textContent.includes("Software WebGL")) notice.classList.add("quiet");
    }
  }

  function paint() {
    const inner = page3d();
    if (!inner?.body) return;
    for (let part = inner.querySelector("canvas"); part && part !== inner.body; part = part.parentElement) {
      part.style.background = "transparent";
    }
    inner.body.style.background = getComputedStyle(node).backgroundColor;
  }

  const started = performance.now();
  const wait = setInterval(() => {
    if (!node.isConnected && performance.now() - started > 1000) clearInterval(wait);
    let box = null;
    try { box = timeBox(); } catch { box = null; }
    if (box) {
      clearInterval(wait);
      isReady = true;
      dress();
      type();
      // The notice may come after the recording.
      setTimeout(() => { if (page3d()) dismissSoftwareNotice(page3d()); }, 1500);
    } else if (performance.now() - started > PLAYER_PATIENCE_MS) {
      clearInterval(wait);
      status.textContent = "The 4D scene could not be opened in this browser. The .ply and .glb downloads hold it too.";
    }
  }, 60);

  return {
    node,
    isReady: () => isReady,
    window: () => frame.contentWindow,
    seek(frameNumber, block) { wanted = { frame: frameNumber, block }; if (isReady) type(); },
    toggleLayers() { page3d()?.querySelector('[aria-label$="scene tree"]')?.click(); },
    repaint: paint,
  };
}

function isDark() {
  return document.body.classList.contains("dark");
}
