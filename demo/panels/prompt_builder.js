// The prompt builder: one sentence with holes. Python composes the sentence, so that it is the training captions' own.

const words = props.words;
const root = element.querySelector(".builder");
const pick = (list) => list[Math.floor(Math.random() * list.length)];
const spoken = { still: "stands still", "slide left": "slides left", "slide right": "slides right", hop: "hops", spin: "spins" };
const moves = (name) => (name === "static" ? "stays put" : name.replace(/^(\w+?)y? (\w+)$/, (_, verb, way) =>
  `${{ orbit: "orbits", truck: "trucks", doll: "dollies", crane: "cranes", pan: "pans" }[verb] ?? verb} ${way}`));

let scene = props.start;

/** A native select drawn as an underlined word. */
function hole(options, value, name, onpick, say = (word) => word) {
  const select = document.createElement("select");
  select.setAttribute("aria-label", name);
  select.append(...options.map((option) => new Option(say(option), option, false, option === value)));
  select.addEventListener("change", () => { onpick(select.value); changed(); });
  const wrap = document.createElement("span");
  wrap.className = "hole";
  wrap.append(select);
  return wrap;
}

function swatch(rgb) {
  const dot = document.createElement("span");
  dot.className = "swatch";
  dot.style.background = `rgb(${rgb.join(",")})`;
  return dot;
}

function button(label, title, onclick) {
  const node = document.createElement("button");
  node.type = "button";
  node.textContent = label;
  node.title = title;
  node.setAttribute("aria-label", title);
  node.addEventListener("click", () => { onclick(); changed(); });
  return node;
}

function newObject() {
  const taken = new Set(scene.objects.map((item) => `${item.colour} ${item.shape}`));
  let item;
  do item = { colour: pick(Object.keys(words.colours)), shape: pick(words.shapes), motion: "still" };
  while (taken.has(`${item.colour} ${item.shape}`));
  return item;
}

function surprise() {
  scene = { objects: [], floor_colour: pick(Object.keys(words.floor_colours)), floor_pattern: pick(words.floor_patterns), camera_move: pick(words.camera_moves) };
  const count = 1 + Math.floor(Math.random() * words.most_objects);
  while (scene.objects.length < count) scene.objects.push(newObject());
  if (Math.random() < 0.5) pick(scene.objects).motion = pick(words.object_motions);
}

function draw() {
  const parts = [];
  scene.objects.forEach((item, i) => {
    const article = /^[aeiou]/.test(item.colour) ? "an" : "a";
    parts.push(i ? ` and ${article} ` : `${article === "an" ? "An" : "A"} `, swatch(words.colours[item.colour]),
      hole(Object.keys(words.colours), item.colour, `Colour of object ${i + 1}`, (word) => { item.colour = word; }), " ",
      hole(words.shapes, item.shape, `Shape of object ${i + 1}`, (word) => { item.shape = word; }), " that ",
      hole(words.object_motions, item.motion, `Motion of object ${i + 1}`, (word) => { item.motion = word; }, (word) => spoken[word] ?? word));
    if (scene.objects.length > 1) parts.push(button("×", `Remove object ${i + 1}`, () => scene.objects.splice(i, 1)));
  });
  parts.push(" on a ", swatch(words.floor_colours[scene.floor_colour]),
    hole(Object.keys(words.floor_colours), scene.floor_colour, "Floor colour", (word) => { scene.floor_colour = word; }), " ",
    hole(words.floor_patterns, scene.floor_pattern, "Floor pattern", (word) => { scene.floor_pattern = word; }), " floor; the camera ",
    hole(words.camera_moves, scene.camera_move, "Camera move", (word) => { scene.camera_move = word; }, moves), ".");
  const end = document.createElement("div");
  end.className = "row-end";
  if (scene.objects.length < words.most_objects) end.append(button("+ object", "Add an object", () => scene.objects.push(newObject())));
  else end.append(document.createElement("span"));
  end.append(button("Surprise me", "A random scene", surprise));
  const title = document.createElement("span");
  title.className = "builder-title";
  title.textContent = "Fill in the blanks, or write above";
  root.replaceChildren(title, ...parts, end);
}

function changed() {
  draw();
  trigger("compose", { scene });
}

draw();
