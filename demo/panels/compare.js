// A prompt of the drawing is a button: it goes to the stage as a pair.
const pick = (event) => {
  const prompt = event.target.closest?.("[data-index]");
  if (!prompt || (event.key && event.key !== "Enter" && event.key !== " ")) return;
  event.preventDefault();
  trigger("pick", { index: Number(prompt.dataset.index) });
};
element.addEventListener("click", pick);
element.addEventListener("keydown", pick);
