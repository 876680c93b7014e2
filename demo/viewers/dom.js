// Small tools for building and finding elements. All parts of the stage are one function body, in the order that
// stage.py lists; Gradio provides `element`, `props`, `trigger` and `watch`, stage.py `fixed`.

/** An element with attributes (functions become listeners) and children (strings become text). */
function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") node.addEventListener(name, value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

/** An SVG icon of 16×16 from a path. */
function icon(path) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  const shape = document.createElementNS("http://www.w3.org/2000/svg", "path");
  shape.setAttribute("d", path);
  svg.append(shape);
  return svg;
}

const ICONS = {
  play: "M4 2.5v11l9-5.5z",
  pause: "M4 2.5h3v11H4zM9 2.5h3v11H9z",
  previous: "M3 2.5h2v11H3zM13 2.5v11L6 8z",
  next: "M11 2.5h2v11h-2zM3 2.5v11L10 8z",
  layers: "M8 1.5 15 5 8 8.5 1 5zM2.6 7.6 8 10.3l5.4-2.7L15 8.4 8 12 1 8.4zM2.6 11 8 13.7 13.4 11l1.6.8L8 15.3l-7-3.5z",
  expand: "M2 2h5v1.6H3.6V7H2zM9 2h5v5h-1.6V3.6H9zM2 9h1.6v3.4H7V14H2zM12.4 9H14v5H9v-1.6h3.4z",
  link: "M6.600 9.400a2.300 2.300 0 0 1 0-3.200l2.300-2.300a2.300 2.300 0 0 1 3.200 3.200l-.900.900-1-1 .9-.9a.9.9 0 0 0-1.200-1.200L7.600 7.200a.9.9 0 0 0 0 1.200zM9.400 6.600a2.300 2.300 0 0 1 0 3.200l-2.300 2.300a2.300 2.300 0 0 1-3.200-3.200l.900-.900 1 1-.9.9a.9.9 0 0 0 1.200 1.200l2.300-2.300a.9.9 0 0 0 0-1.200z",
  download: "M7.200 2h1.600v6.300l2.300-2.300 1.100 1.100L8 11.300 3.800 7.100 4.900 6l2.300 2.300zM3 12.4h10V14H3z",
};

/** A button with an icon and a name for screen readers and tooltips. */
function iconButton(name, label, onclick) {
  return h("button", { type: "button", class: "icon", title: label, "aria-label": label, click: onclick }, icon(ICONS[name]));
}

/** A button of a segmented control. */
function segment(label, isOn, onclick) {
  return h("button", { type: "button", "aria-pressed": String(isOn), click: onclick }, label);
}

/** Run a function at most once a display frame, with its latest arguments. */
function oncePerFrame(work) {
  let latest = null;
  return (...values) => {
    if (latest === null) requestAnimationFrame(() => { const call = latest; latest = null; work(...call); });
    latest = values;
  };
}

/** Load a script once for the whole page. */
function loadScript(url) {
  window.__studioScripts ??= new Map();
  const known = window.__studioScripts;
  if (!known.has(url)) {
    known.set(url, new Promise((resolve, reject) => {
      document.head.append(h("script", { src: url, load: resolve, error: () => reject(new Error(`cannot load ${url}`)) }));
    }));
  }
  return known.get(url);
}
