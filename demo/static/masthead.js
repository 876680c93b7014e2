// Light or dark by hand; the page otherwise follows the system.
element.querySelector("button").addEventListener("click", () => {
  const isDark = document.body.classList.toggle("dark");
  document.documentElement.style.colorScheme = isDark ? "dark" : "light";
});
