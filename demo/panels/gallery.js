// Cards play their video while the pointer or the focus is on them; a click opens the run on the stage.

const cards = element.querySelectorAll("button[data-run]");
for (const card of cards) {
  const video = card.querySelector("video");
  const start = () => video?.play().catch(() => {});
  const stop = () => { if (video) { video.pause(); video.currentTime = video.duration / 2 || 0; } };
  card.addEventListener("pointerenter", start);
  card.addEventListener("focus", start);
  card.addEventListener("pointerleave", stop);
  card.addEventListener("blur", stop);
  card.addEventListener("click", () => trigger("open", { run: card.dataset.run }));
}
