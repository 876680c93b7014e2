// Turn one 4D scene and the other turns with it: what the pointer does over one player is done over the other at the
// same place. viser has no interface for its camera, so the events themselves are repeated; fails soft.

const REPEATED = ["pointerdown", "pointermove", "pointerup", "pointercancel", "wheel", "contextmenu"];

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
    const canvas = from.canvas();
    if (!canvas || linked.has(canvas)) return;
    linked.add(canvas);
    for (const type of REPEATED) from.window().addEventListener(type, (event) => repeat(event, { from, to }), { capture: true, passive: true });
  }

  function repeat(event, { from, to }) {
    const [here, there] = [from.canvas(), to.canvas()];
    if (!isAlive || !event.isTrusted || !here || !there) return;
    // A drag may end outside of the canvas; it begins on it.
    const isDrag = event.type === "pointermove" || event.type === "pointerup" || event.type === "pointercancel";
    if (!isDrag && event.target !== here) return;
    if (event.type === "pointermove" && !event.buttons) return;
    const [a, b] = [here.getBoundingClientRect(), there.getBoundingClientRect()];
    const Kind = to.window()[event.constructor.name];
    if (!Kind) return;
    const copied = {};
    for (const name of ["bubbles", "cancelable", "pointerId", "pointerType", "isPrimary", "button", "buttons", "ctrlKey", "shiftKey",
      "altKey", "metaKey", "deltaX", "deltaY", "deltaMode", "movementX", "movementY", "pressure"]) copied[name] = event[name];
    copied.clientX = b.left + ((event.clientX - a.left) * b.width) / a.width;
    copied.clientY = b.top + ((event.clientY - a.top) * b.height) / a.height;
    there.dispatchEvent(new Kind(event.type, copied));
  }

  return () => { isAlive = false; clearInterval(wait); };
}
