// The board of a fine-tune. It asks the server once a second while it is seen, and is told only what changed; everything
// that it shows comes from the run's folder, so a reload, a second visitor or a restarted page see the same.

const root = element.querySelector(".board");
const EVERY_MS = 1000;
const IDLE_MS = 4000;
const calm = window.matchMedia("(prefers-reduced-motion: reduce)").matches;

let job = new URL(location.href).searchParams.get("job") ?? "";
let seen = "";
let shown = null;
let wasSeen = false;
let timer = 0;

// Parts that stay while a run is followed ----------------------------------------------------------------------------
const view = {
  empty: h("div", { class: "empty" }, h("div", { class: "empty-mark", "aria-hidden": "true" }, h("i"), h("i"), h("i")),
    h("h2", {}, props.empty_title), h("p", {}, props.empty_hint)),
  head: h("header", { class: "stage-head" }),
  state: h("div", { class: "state", role: "status" }),
  notice: h("div", { class: "notice", hidden: true }),
  columns: h("div", { class: "columns" }),
  time: h("div", { class: "time" }),
  samples: h("section", { class: "card samples", hidden: true }),
  details: h("div", { class: "details" }),
  list: h("section", { class: "card jobs", hidden: true }),
};
const plots = [createColumn(), createColumn(), createColumn()];
view.columns.append(...plots.map((plot) => plot.node));
plots[2].node.classList.add("wide");
plots[2].node.append(view.time);
const grid = createSamples(view.samples);

async function look({ fresh = false } = {}) {
  clearTimeout(timer);
  const isSeen = root.offsetParent !== null && !document.hidden;
  let wait = IDLE_MS;
  if (isSeen || fresh) {
    try {
      const answer = await server.look({ job, stamp: fresh ? "" : seen });
      if (answer.board) show(answer.board);
      if (answer.list) showList(answer.list);
      if (answer.stamp) seen = answer.stamp;
      root.classList.remove("lost");
      wait = answer.isActive ? EVERY_MS : IDLE_MS;
    } catch {
      root.classList.add("lost");
    }
  }
  remember(isSeen);
  timer = setTimeout(look, isSeen ? wait : EVERY_MS);
}

/** The address names the fine-tune while it is looked at, so that a reload comes back to it. */
function remember(isSeen) {
  const here = new URL(location.href);
  if (isSeen && job) {
    wasSeen = true;
    if (here.searchParams.get("job") === job) return;
    here.searchParams.set("job", job);
  } else if (wasSeen && here.searchParams.has("job") && root.offsetParent === null) {
    here.searchParams.delete("job");
  } else return;
  history.replaceState(null, "", here);
}

function open(id) {
  if (id === job && shown) return;
  job = id;
  look({ fresh: true });
}

async function ask(action, id = job) {
  const answer = await server.act({ action, job: id });
  if (answer.error) say(answer.error, true);
  else if (answer.job !== undefined) job = answer.job;
  await look({ fresh: true });
  if (answer.error) say(answer.error, true);
}

function say(text, isError) {
  view.notice.hidden = !text;
  view.notice.className = isError ? "notice error" : "notice";
  view.notice.setAttribute("role", isError ? "alert" : "status");
  view.notice.textContent = text;
}

// One fine-tune ------------------------------------------------------------------------------------------------------
function show(board) {
  const isOther = board.job !== shown?.job;
  shown = board;
  job = board.job ?? "";
  root.dataset.job = job;
  root.dataset.state = board.state ?? "";
  root.dataset.iteration = board.iteration ?? 0;
  if (!board.job) return root.replaceChildren(view.empty, view.list);
  if (isOther) {
    grid.clear();
    root.replaceChildren(view.head, view.state, view.notice, view.columns, view.samples, view.details, view.list);
  }
  showHead(board);
  showState(board);
  board.columns.forEach((column, i) => plots[i].show(column, board.iterations));
  showTime(board.time);
  grid.show(board.samples);
  showDetails(board);
}

function showHead(board) {
  const use = board.hasAdapter && h("button", { type: "button", class: "plain strong", "data-action": "use",
    title: "Open it beside the base model", click: () => trigger("use_adapter", { job }) }, "Use this adapter");
  const file = board.files.find((item) => item.name === "adapter");
  const save = file && h("a", { class: "plain", href: file.url, download: file.file, title: file.hint }, icon(ICONS.download), "Adapter");
  const stop = board.isMine && board.isActive && h("button", { type: "button", class: "plain", "data-action": "stop", click: () => ask("stop") },
    { queued: "Leave the queue", stopping: "End at once" }[board.state] ?? "Stop");
  const resume = board.isMine && board.canResume && h("button", { type: "button", class: "plain", "data-action": "resume", click: () => ask("resume") }, "Resume");
  const drop = board.isMine && !board.isActive && h("button", { type: "button", class: "plain", "data-action": "remove", title: "Delete this fine-tune and its adapter",
    click: () => { if (confirm("Delete this fine-tune with its adapter, samples and checkpoints?")) ask("remove"); } }, "Delete");
  const actions = [stop, resume, use, save, drop].filter(Boolean);
  // Buttons that are pressed while the head is redrawn would lose the click.
  const key = JSON.stringify([board.job, actions.map((node) => node.textContent), file?.url]);
  if (view.head.dataset.key === key) return;
  view.head.dataset.key = key;
  view.head.replaceChildren(
    h("div", {}, h("h2", {}, `Fine-tune of ${board.title}`), h("p", { class: "facts" }, board.facts.map((fact) => h("span", {}, fact)))),
    h("div", { class: "actions" }, actions));
}

function showState(board) {
  view.state.replaceChildren(
    h("div", { class: "line" }, h("i", { class: `dot ${board.state}` }), h("span", {}, board.line),
      h("span", { class: "hint" }, board.state === "failed" ? "" : board.message)),
    h("div", { class: "track", role: "progressbar", "aria-valuenow": Math.round(board.share), "aria-valuemin": 0, "aria-valuemax": 100 },
      h("i", { style: `width:${board.share.toFixed(1)}%` })));
  say(board.state === "failed" ? board.message : "", true);
}

function showTime(shares) {
  view.time.hidden = !shares.length;
  view.time.replaceChildren(
    h("div", { class: "shares", "aria-label": "Where the time goes" }, shares.map((item) =>
      h("i", { style: `flex:${item.share.toFixed(2)}`, title: `${item.name}: ${item.seconds} s, ${item.share.toFixed(0)} %` },
        h("span", {}, `${item.name} ${item.share.toFixed(0)} %`)))));
}

function showDetails(board) {
  const key = JSON.stringify([board.log, board.files, board.prompts]);
  if (view.details.dataset.key === key) return;
  view.details.dataset.key = key;
  const files = board.files.map((file) => h("li", {}, h("a", { href: file.url, download: file.file, title: file.hint },
    icon(ICONS.download), h("span", {}, file.label), h("small", {}, file.size))));
  const prompts = board.prompts.length && h("details", {}, h("summary", {}, `${board.prompts.length} prompts`),
    h("ul", {}, board.prompts.map((prompt) => h("li", {}, prompt))));
  view.details.replaceChildren(
    h("section", { class: "card" }, h("h3", {}, "Log"),
      h("pre", { class: "log", tabindex: 0 }, board.log.join("\n") || "Nothing yet."), prompts || null),
    h("section", { class: "card" }, h("h3", {}, "Take it with you"),
      files.length ? h("ul", { class: "files" }, files) : h("p", { class: "hint" }, "The adapter comes with the first checkpoint.")));
}

function showList(list) {
  view.list.hidden = !list.length;
  if (!view.list.isConnected) root.append(view.list);
  view.list.replaceChildren(h("h3", {}, props.list_title),
    h("ul", {}, list.map((item) => h("li", {},
      h("button", { type: "button", "data-job": item.job, "aria-current": item.job === job ? "true" : null, title: `Asked for ${item.asked}`, click: () => open(item.job) },
        h("i", { class: `dot ${item.state}` }), h("span", {}, item.title), h("span", { class: "hint" }, item.stateName),
        h("span", { class: "hint num" }, item.done))))),
    h("p", { class: "hint" }, props.shared));
}

watch("value", () => {
  if (!props.value?.job) return;
  open(props.value.job);
  // The board may begin above the button that was just pressed, or on a phone below it.
  const { top } = root.getBoundingClientRect();
  if (top < 0 || top > innerHeight / 2) root.scrollIntoView({ block: "start", behavior: calm ? "auto" : "smooth" });
});
look({ fresh: true });
