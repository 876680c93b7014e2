// Cards play their videos while the pointer or the focus is on them; a click opens the run or the pair on its stage.

const cards = element.querySelectorAll("button[data-run], button[data-pair]");
for (const card of cards) {
  const videos = [...card.querySelectorAll("video")];
  const start = () => videos.forEach((video) => video.play().catch(() => {}));
  const stop = () => videos.forEach((video) => { video.pause(); video.currentTime = video.duration / 2 || 0; });
  card.addEventListener("pointerenter", start);
  card.addEventListener("focus", start);
  card.addEventListener("pointerleave", stop);
  card.addEventListener("blur", stop);
  card.addEventListener("click", () => (card.dataset.pair
    ? trigger("open_pair", { pair: card.dataset.pair }) : trigger("open", { run: card.dataset.run })));
}
