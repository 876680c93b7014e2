// Turn one 4D scene and the other turns with it: what the pointer does over one player is done over the other at the
// same place. viser has no interface for its camera, so the events themselves are repeated; fails soft.

const REPEATED = ["pointerdown", "pointermove", "pointerup", "pointercancel", "wheel", "contextmenu"];

const COPIED = ["bubbles", "cancelable", "pointerId", "pointerType", "isPrimary", "button", "buttons", "ctrlKey", "shiftKey",
  "altKey", "metaKey", "deltaX", "deltaY", "deltaMode", "movementX", "movementY", "pressure"];

/** Link the views of two players of one size. Returns what ends that. */
function linkViews(players) {
  let isAlive = true;
  const linked = new Set();
  const wait = setInterval(() => {
    if (!players.every((player) => player.isReady())) return;
    clearInterval(wait);
    players.forEach((player, i) => listen(player, players[1 - i]));
  }, 200);

  function listen(from, to) {
    const view = from.window();
    if (!view || linked.has(view)) return;
    linked.add(view);
    for (const type of REPEATED) view.addEventListener(type, (event) => repeat(event, { view, to: to.window() }), { capture: true, passive: true });
  }

  function repeat(event, { view, to }) {
    if (!isAlive || !event.isTrusted || !to) return;
    // A drag may end outside of the canvas; it begins on it.
    const isDrag = event.type === "pointermove" || event.type === "pointerup" || event.type === "pointercancel";
    if (!isDrag && event.target.tagName !== "CANVAS") return;
    if (event.type === "pointermove" && !event.buttons) return;
    const clientX = (event.clientX * to.innerWidth) / view.innerWidth;
    const clientY = (event.clientY * to.innerHeight) / view.innerHeight;
    const Kind = to[event.constructor.name];
    const target = to.document.elementFromPoint(clientX, clientY) ?? to.document.querySelector("canvas");
    if (!Kind || !target) return;
    const copied = { clientX, clientY };
    for (const name of COPIED) copied[name] = event[name];
    target.dispatchEvent(new Kind(event.type, copied));
  }

  return () => { isAlive = false; clearInterval(wait); };
}
