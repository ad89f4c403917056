"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const MARGIN = { left: 52, right: 16, top: 12, bottom: 44 };
const HEIGHT = 420;
const LOG_RATIO = 8;
const MANY = 100;
const CLOSEST = 0.001;
const DASHED = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];
const trials = new Map(data.trials.map((trial) => [trial.id, trial]));
const finished = data.trials.filter((trial) => trial.state === "COMPLETE");
const members = finished.filter((trial) => trial.front);
const state = { cost: "size", limit: Infinity, selected: null, view: null, others: new Set(data.others.map((other) => other.name)) };

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function shape(name, attributes = {}, text = "") {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

function digits(value) {
  return Number(value.toPrecision(3)).toLocaleString("en");
}

function scaled(value, units) {
  let index = 0;
  while (value >= 1000 && index < units.length - 1) [value, index] = [value / 1000, index + 1];
  return `${digits(value)}${units[index]}`;
}

const WRITE = {
  size: (value) => scaled(value, [" bytes", " KB", " MB", " GB"]),
  ram: (value) => scaled(value, [" bytes", " KB", " MB", " GB"]),
  macs: (value) => scaled(value, ["", " k", " M", " G", " T"]),
  latency: (value) => `${digits(value)} ms`,
};
const note = (trial, cost) => (cost === "latency" && trial.latencyNote ? `, ${trial.latencyNote}` : "");
const percent = (share) => (100 * share).toFixed(1);

/* ---- the chart ---- */

function costOf(trial) {
  return trial[state.cost];
}

function drawn() {
  return finished.filter((trial) => costOf(trial) !== null);
}

function overlays() {
  if (state.cost !== "size") return [];
  const theirs = data.others.filter((other) => state.others.has(other.name));
  return [...data.baselines, ...theirs.flatMap((other) => other.points)];
}

function wholeView() {
  const all = [...drawn(), ...overlays()];
  const xs = all.map((each) => each[state.cost]);
  const ys = all.map((each) => 100 * each.miou);
  let [left, right] = [Math.min(...xs), Math.max(...xs)];
  let [bottom, top] = [Math.min(...ys), Math.max(...ys)];
  const isLog = right > LOG_RATIO * left;
  const wide = isLog ? Math.log(right / left) : right - left || left;
  [left, right] = isLog
    ? [left * Math.exp(-0.06 * wide), right * Math.exp(0.06 * wide)]
    : [Math.max(0, left - 0.1 * wide), right + 0.1 * wide];
  const tall = Math.max(top - bottom, 2);
  return { left, right, bottom: Math.max(0, bottom - 0.08 * tall), top: top + 0.08 * tall, isLog };
}

function linearTicks(low, high, wanted) {
  const raw = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= raw);
  const ticks = [];
  for (let n = Math.ceil(low / step); n * step <= high; n += 1) ticks.push(n * step);
  return ticks;
}

function ticksOf(low, high, isLog) {
  if (!isLog) return linearTicks(low, high, 6);
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1)
    for (const step of [1, 2, 5]) ticks.push(step * 10 ** power);
  const inside = ticks.filter((tick) => low <= tick && tick <= high);
  return inside.length > 2 ? inside : linearTicks(low, high, 5);
}

function scales(width) {
  const view = state.view;
  const along = view.isLog ? Math.log : (value) => value;
  const [left, right] = [along(view.left), along(view.right)];
  const [inner, tall] = [width - MARGIN.left - MARGIN.right, HEIGHT - MARGIN.top - MARGIN.bottom];
  return {
    x: (value) => MARGIN.left + (inner * (along(value) - left)) / (right - left),
    y: (value) => MARGIN.top + (tall * (view.top - value)) / (view.top - view.bottom),
    xBack: (place) => {
      const value = left + ((place - MARGIN.left) / inner) * (right - left);
      return view.isLog ? Math.exp(value) : value;
    },
    yBack: (place) => view.top - ((place - MARGIN.top) / tall) * (view.top - view.bottom),
  };
}

function staircase(points, at, width) {
  const sorted = [...points].sort((a, b) => a[state.cost] - b[state.cost]);
  let path = "";
  let best = -1;
  for (const point of sorted) {
    if (point.miou <= best) continue;
    const [x, y] = [at.x(point[state.cost]), at.y(100 * point.miou)];
    path += path ? `H${x}V${y}` : `M${x} ${HEIGHT - MARGIN.bottom}V${y}`;
    best = point.miou;
  }
  return path && `${path}H${width - MARGIN.right}`;
}

function diamond(x, y, r) {
  return `M${x} ${y - r}L${x + r} ${y}L${x} ${y + r}L${x - r} ${y}Z`;
}

function star(x, y, r) {
  const corners = [...Array(10).keys()].map((n) => {
    const [angle, radius] = [(n * Math.PI) / 5, n % 2 ? r / 2.5 : r];
    return `${x + radius * Math.sin(angle)} ${y - radius * Math.cos(angle)}`;
  });
  return `M${corners.join("L")}Z`;
}

function describe(trial) {
  const cost = costOf(trial);
  const front = trial.front ? ", on the front" : "";
  const missed = trial.misses ? `, ${trial.missed} classes never predicted` : "";
  const written = WRITE[state.cost](cost) + note(trial, state.cost);
  return `trial ${trial.label}: mIoU ${percent(trial.miou)} %, ${written}${front}${missed}`;
}

function drawChart() {
  const holder = document.getElementById("chart");
  const focused = document.activeElement?.dataset?.trial;
  const width = Math.max(280, holder.clientWidth);
  state.view ??= wholeView();
  const at = scales(width);
  const svg = shape("svg", {
    viewBox: `0 0 ${width} ${HEIGHT}`,
    height: HEIGHT,
    role: "group",
    "aria-label": "mIoU of all finished trials; arrow keys go from one to the next",
  });
  const [right, bottom] = [width - MARGIN.right, HEIGHT - MARGIN.bottom];
  let free = -Infinity;
  for (const tick of ticksOf(state.view.left, state.view.right, state.view.isLog)) {
    const x = at.x(tick);
    svg.append(shape("line", { class: "grid", x1: x, x2: x, y1: MARGIN.top, y2: bottom }));
    if (x - free < 58) continue;
    free = x;
    svg.append(shape("text", { x, y: bottom + 16, "text-anchor": "middle" }, WRITE[state.cost](tick)));
  }
  for (const tick of linearTicks(state.view.bottom, state.view.top, 6)) {
    const y = at.y(tick);
    svg.append(shape("line", { class: "grid", x1: MARGIN.left, x2: right, y1: y, y2: y }));
    svg.append(shape("text", { x: MARGIN.left - 6, y: y + 4, "text-anchor": "end" }, digits(tick)));
  }
  svg.append(shape("line", { class: "axis", x1: MARGIN.left, x2: right, y1: bottom, y2: bottom }));
  const label = data.costs.find((cost) => cost.key === state.cost).label;
  const scale = state.view.isLog ? ", log scale" : "";
  svg.append(shape("text", { x: (MARGIN.left + right) / 2, y: HEIGHT - 8, "text-anchor": "middle", class: "muted" }, label + scale));
  const turned = `translate(14 ${(MARGIN.top + bottom) / 2}) rotate(-90)`;
  svg.append(shape("text", { transform: turned, "text-anchor": "middle", class: "muted" }, "mIoU (%)"));
  const clip = shape("clipPath", { id: "window" });
  clip.append(shape("rect", { x: MARGIN.left, y: 0, width: right - MARGIN.left, height: bottom }));
  const plot = shape("g", { "clip-path": "url(#window)" });
  svg.append(clip, plot);
  plot.append(shape("path", { class: "front", d: staircase(drawn().filter((t) => t.front), at, width) }));
  if (state.cost === "size") drawOverlays(plot, at, width);
  if (Number.isFinite(state.limit)) {
    const x = at.x(state.limit);
    plot.append(shape("line", { class: "limit", x1: x, x2: x, y1: MARGIN.top, y2: bottom }));
  }
  drawPoints(plot, at, svg);
  holder.replaceChildren(svg);
  zoomByDragging(svg, at);
  if (focused) holder.querySelector(`[data-trial="${CSS.escape(focused)}"]`)?.focus();
}

function drawOverlays(plot, at, width) {
  data.others.forEach((other, index) => {
    if (!state.others.has(other.name)) return;
    const stroke = DASHED[index % DASHED.length];
    plot.append(shape("path", { class: "other", stroke, d: staircase(other.points, at, width) }));
  });
  for (const baseline of data.baselines) {
    const [x, y] = [at.x(baseline.size), at.y(100 * baseline.miou)];
    const mark = shape("path", { d: star(x, y, 8), fill: "var(--ink)" });
    mark.append(shape("title", {}, `${baseline.name}: mIoU ${percent(baseline.miou)} %, ${WRITE.size(baseline.size)}`));
    const isRight = x > width - 160;
    const place = { x: x + (isRight ? -11 : 11), y: y + 4, "text-anchor": isRight ? "end" : "start", class: "muted" };
    plot.append(mark, shape("text", place, baseline.name));
  }
}

function drawPoints(plot, at, svg) {
  const order = drawn().sort((a, b) => costOf(a) - costOf(b));
  const first = order.some((trial) => trial.id === state.selected) ? state.selected : order[0]?.id;
  const back = [...order].sort((a, b) => a.front - b.front);
  for (const trial of back) {
    const [x, y] = [at.x(costOf(trial)), at.y(100 * trial.miou)];
    const common = {
      class: "point",
      fill: data.colors[trial.weightBits],
      "fill-opacity": trial.front || trial.reference ? 1 : 0.4,
      role: "button",
      tabindex: trial.id === first ? 0 : -1,
      "data-trial": trial.id,
      "aria-label": describe(trial),
      "aria-pressed": trial.id === state.selected,
    };
    const r = trial.front ? 7 : 5.5;
    const point = trial.weightBits === 32
      ? shape("path", { ...common, d: diamond(x, y, r + 1) })
      : shape("circle", { ...common, cx: x, cy: y, r });
    point.append(shape("title", {}, describe(trial)));
    point.addEventListener("click", () => select(trial.id));
    point.addEventListener("focus", () => trial.id !== state.selected && select(trial.id));
    point.addEventListener("keydown", (event) => step(event, order, trial));
    plot.append(point);
    if (trial.misses && (trial.front || order.length <= MANY))
      plot.append(shape("circle", { class: "ring", cx: x, cy: y, r: 11 }));
    if (trial.id === state.selected) plot.append(shape("circle", { class: "mark", cx: x, cy: y, r: 11 }));
  }
  label(svg, at, order.filter((trial) => (trial.front || trial.reference) && isInside(trial)));
}

function label(svg, at, named) {
  const taken = [];
  const isFirst = (trial) => trial.id === state.selected || trial === named[0] || trial === named.at(-1);
  for (const trial of [...named].sort((a, b) => isFirst(b) - isFirst(a))) {
    const [x, y] = [at.x(costOf(trial)) - 9, at.y(100 * trial.miou) - 10];
    const box = [x - 7 * trial.label.length, x, y - 12, y + 2];
    if (taken.some(([l, r, t, b]) => l < box[1] && box[0] < r && t < box[3] && box[2] < b)) continue;
    taken.push(box);
    svg.append(shape("text", { x, y, "text-anchor": "end", class: "muted" }, trial.label));
  }
}

function isInside(trial) {
  const { left, right, bottom, top } = state.view;
  const [cost, miou] = [costOf(trial), 100 * trial.miou];
  return left <= cost && cost <= right && bottom <= miou && miou <= top;
}

function step(event, order, trial) {
  const ways = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 };
  const index = order.indexOf(trial);
  const next = { Home: order[0], End: order.at(-1) }[event.key] ?? order[index + (ways[event.key] ?? NaN)];
  if (!next) return;
  event.preventDefault();
  if (!isInside(next)) state.view = null;
  select(next.id);
  document.querySelector(`#chart [data-trial="${CSS.escape(next.id)}"]`).focus();
}

function zoom(factor) {
  const view = state.view;
  const trial = trials.get(state.selected);
  const along = view.isLog ? Math.log : (value) => value;
  const back = view.isLog ? Math.exp : (value) => Math.max(0, value);
  const hasPlace = trial && isInside(trial);
  const middle = hasPlace ? along(costOf(trial)) : (along(view.left) + along(view.right)) / 2;
  const height = hasPlace ? 100 * trial.miou : (view.bottom + view.top) / 2;
  const wide = (factor * (along(view.right) - along(view.left))) / 2;
  const tall = (factor * (view.top - view.bottom)) / 2;
  const whole = wholeView();
  if (factor < 1 && view.right / view.left - 1 < CLOSEST) return;
  state.view = {
    left: Math.max(whole.left, back(middle - wide)),
    right: Math.min(whole.right, back(middle + wide)),
    bottom: Math.max(whole.bottom, height - tall),
    top: Math.min(whole.top, height + tall),
    isLog: view.isLog,
  };
  drawChart();
}

function zoomByDragging(svg, at) {
  const place = (event) => {
    const box = svg.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  svg.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "touch" || event.target.closest(".point")) return;
    const [x0, y0] = place(event);
    const box = shape("rect", { class: "box" });
    svg.append(box);
    svg.setPointerCapture(event.pointerId);
    const move = (moved) => {
      const [x, y] = place(moved);
      box.setAttribute("x", Math.min(x, x0));
      box.setAttribute("y", Math.min(y, y0));
      box.setAttribute("width", Math.abs(x - x0));
      box.setAttribute("height", Math.abs(y - y0));
    };
    const end = (moved) => {
      const [x, y] = place(moved);
      svg.removeEventListener("pointermove", move);
      box.remove();
      if (Math.abs(x - x0) < 8 || Math.abs(y - y0) < 8) return;
      if (at.xBack(Math.max(x, x0)) / at.xBack(Math.min(x, x0)) - 1 < CLOSEST) return;
      const [left, right] = [at.xBack(Math.min(x, x0)), at.xBack(Math.max(x, x0))];
      const [bottom, top] = [at.yBack(Math.max(y, y0)), at.yBack(Math.min(y, y0))];
      state.view = { ...state.view, left, right, bottom: Math.max(0, bottom), top };
      drawChart();
    };
    svg.addEventListener("pointermove", move);
    svg.addEventListener("pointerup", end, { once: true });
  });
  svg.addEventListener("dblclick", resetView);
}

function resetView() {
  state.view = null;
  drawChart();
}

/* ---- the chosen student ---- */

function select(id) {
  state.selected = id;
  drawChart();
  showTrial(trials.get(id));
  for (const row of document.querySelectorAll("#trials tbody tr"))
    row.classList.toggle("selected", row.dataset.trial === id);
}

function term(name, text) {
  return text ? [element("dt", {}, name), element("dd", {}, text)] : [];
}

function showTrial(trial) {
  const panel = document.getElementById("chosen");
  const title = element("h2", {}, `Trial ${trial.label}`);
  const facts = element("dl", {});
  facts.append(
    ...term("state", trial.state === "COMPLETE" ? (trial.front ? "on the front" : "dominated") : `${trial.state}: ${trial.reason}`),
    ...term("mIoU", trial.miou === null ? "" : `${percent(trial.miou)} %${data.teacher ? ` (teacher ${percent(data.teacher.miou)} %)` : ""}`),
    ...term("with another seed", trial.otherSeed === null ? "" : `${percent(trial.otherSeed)} %`),
    ...data.costs.flatMap((cost) => term(cost.label, trial[cost.key] === null ? "" : WRITE[cost.key](trial[cost.key]) + note(trial, cost.key))),
    ...term("compressed", trial.compressed === null ? "" : `${WRITE.size(trial.compressed)} (zstd)`),
    ...term("bits W/A", trial.bits),
    ...term("student", trial.student),
    ...term("recipe", trial.recipe),
    ...term("training", `${trial.epochs} epochs, ${digits(trial.seconds)} device seconds`),
    ...term("cost", trial.cost),
    ...term("classes never predicted", trial.missed),
  );
  panel.replaceChildren(title, facts);
  if (trial.front) panel.append(command(trial.export));
  const sampled = Object.entries(trial.params);
  if (sampled.length) {
    const list = element("dl", {});
    for (const [name, value] of sampled) list.append(...term(name, value));
    panel.append(element("details", {}, element("summary", {}, "what was sampled"), list));
  }
  if (trial.masks.length) panel.append(element("h3", {}, "What it predicts"), maskTable(trial));
  if (trial.curve.length > 1)
    panel.append(element("h3", {}, "mIoU by epoch"), lineChart(trial.curve.map(([x, y]) => [x, 100 * y]), "epoch", "mIoU (%)"));
  if (trial.iou.length) panel.append(element("h3", {}, "IoU of each class (%)"), classTable(trial.iou));
  if (trial.layers.length) {
    const rows = trial.layers.map(([name, weights, inputs]) => [name, weights, inputs]);
    panel.append(element("details", {}, element("summary", {}, "bits of each layer"), plainTable(["layer", "weights", "inputs"], rows)));
  }
}

function command(text) {
  const code = element("code", { tabindex: 0 }, text);
  const button = element("button", { type: "button" }, "Copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const range = document.createRange();
      range.selectNodeContents(code);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      document.execCommand("copy");
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
  return element("div", { class: "command" }, code, button);
}

function plainTable(names, rows) {
  const head = element("tr", {}, ...names.map((name) => element("th", { scope: "col" }, name)));
  const body = rows.map((row) => element("tr", {}, ...row.map((cell) => element("td", {}, cell))));
  const table = element("table", {}, element("thead", {}, head), element("tbody", {}, ...body));
  return element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": names[0] }, table);
}

function maskTable(trial) {
  const columns = [
    ["image", data.examples.images],
    ["label", data.examples.truths],
    [`trial ${trial.label}`, trial.masks],
    ["teacher", data.examples.teacher],
  ].filter(([, pictures]) => pictures.length);
  const rows = trial.masks.map((_, index) =>
    columns.map(([name, pictures]) => element("img", { class: "mask", src: pictures[index], alt: `${name} of example ${index + 1}` })));
  const legend = element("ul", { class: "legend" });
  data.classes.forEach((name, index) => {
    const dot = element("span", { class: "dot", style: `background:${data.classColors[index]};border-radius:0` });
    legend.append(element("li", {}, dot, ` ${name}`));
  });
  const table = plainTable(columns.map(([name]) => name), rows);
  return element("div", { class: "masks" }, table, element("details", {}, element("summary", {}, "colours of the classes"), legend));
}

function classTable(iou) {
  const teacher = data.teacher?.iou;
  const rows = data.classes
    .map((name, index) => [name, iou[index], teacher?.[index] ?? null])
    .filter(([, value]) => value !== null)
    .sort((a, b) => a[1] - b[1])
    .map(([name, own, theirs]) => {
      const meter = element("meter", { min: 0, max: 1, value: own, "aria-label": `IoU of ${name}` });
      return [name, meter, percent(own), ...(teacher ? [theirs === null ? "" : percent(theirs)] : [])];
    });
  return plainTable(["class", "bar", "student", ...(teacher ? ["teacher"] : [])], rows);
}

function lineChart(points, xName, yName) {
  const [width, height, left, bottom] = [360, 150, 44, 30];
  const [xs, ys] = [points.map(([x]) => x), points.map(([, y]) => y)];
  const [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const x = (value) => left + ((width - left - 8) * (value - x0)) / (x1 - x0 || 1);
  const y = (value) => 8 + ((height - bottom - 8) * (y1 - value)) / (y1 - y0 || 1);
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${yName} by ${xName}: from ${digits(ys[0])} to ${digits(ys.at(-1))}` });
  for (const tick of linearTicks(y0, y1 === y0 ? y0 + 1 : y1, 3)) {
    svg.append(shape("line", { class: "grid", x1: left, x2: width, y1: y(tick), y2: y(tick) }));
    svg.append(shape("text", { x: left - 4, y: y(tick) + 4, "text-anchor": "end" }, digits(tick)));
  }
  svg.append(shape("path", { class: "front", d: `M${points.map(([a, b]) => `${x(a)} ${y(b)}`).join("L")}` }));
  svg.append(shape("text", { x: left, y: height - 6, class: "muted" }, digits(x0)));
  svg.append(shape("text", { x: width - 8, y: height - 6, class: "muted", "text-anchor": "end" }, `${digits(x1)} ${xName}`));
  return element("div", { class: "chart small" }, svg);
}

/* ---- what one can afford ---- */

function limits() {
  const known = members.map(costOf).filter((cost) => cost !== null);
  return [Math.min(...known), Math.max(...known)];
}

function afford(limit) {
  state.limit = limit;
  document.getElementById("limit").textContent = WRITE[state.cost](limit);
  document.getElementById("budget").setAttribute("aria-valuetext", WRITE[state.cost](limit));
  const within = members.filter((trial) => costOf(trial) !== null && costOf(trial) <= limit * (1 + 1e-9));
  const best = within.reduce((a, b) => (a && a.miou >= b.miou ? a : b), null);
  const answer = document.getElementById("answer");
  answer.textContent = best
    ? `Trial ${best.label}: mIoU ${percent(best.miou)} % in ${WRITE[state.cost](costOf(best))}${note(best, state.cost)}`
    : `No model of the front is within ${WRITE[state.cost](limit)}.`;
  sayOthers(limit);
  if (best) select(best.id);
  else drawChart();
}

/** What the other studies reach within the limit, which is known for file sizes. */
function sayOthers(limit) {
  document.querySelectorAll("#others .best").forEach((text, index) => {
    const within = data.others[index].points.filter((point) => point.size <= limit * (1 + 1e-9));
    const reached = within.length ? `mIoU ${percent(Math.max(...within.map((point) => point.miou)))} %` : "no model";
    text.textContent = state.cost === "size" ? `: ${reached} within ${WRITE.size(limit)}` : "";
  });
}

function slide() {
  const [low, high] = limits();
  afford(low * (high / low) ** (document.getElementById("budget").value / 1000));
}

function makeAfford() {
  const choose = document.getElementById("cost");
  for (const cost of data.costs) choose.append(element("option", { value: cost.key }, cost.label));
  choose.addEventListener("change", () => {
    state.cost = choose.value;
    state.view = null;
    makePresets();
    slide();
  });
  document.getElementById("budget").addEventListener("input", slide);
  makePresets();
}

function makePresets() {
  const holder = document.getElementById("presets");
  holder.replaceChildren();
  if (state.cost !== "size") return;
  for (const kilobytes of data.presets) {
    const button = element("button", { type: "button" }, WRITE.size(1000 * kilobytes));
    button.addEventListener("click", () => {
      const [low, high] = limits();
      const share = Math.log((1000 * kilobytes) / low) / (Math.log(high / low) || 1);
      document.getElementById("budget").value = 1000 * Math.min(1, Math.max(0, share));
      afford(1000 * kilobytes);
    });
    holder.append(button);
  }
}

/* ---- legend, tables, the search ---- */

function makeLegend() {
  const legend = document.getElementById("legend");
  for (const bits of [...new Set(finished.map((trial) => trial.weightBits))].sort((a, b) => a - b)) {
    const dot = element("span", { class: bits === 32 ? "dot square" : "dot", style: `background:${data.colors[bits]}` });
    legend.append(element("li", {}, dot, bits === 32 ? " full precision" : ` ${bits}-bit weights`));
  }
  if (finished.some((trial) => trial.misses))
    legend.append(element("li", {}, element("span", { class: "dot", style: "border-color:var(--ring)" }), " a class is never predicted"));
  if (data.baselines.length) legend.append(element("li", {}, "\u2605 published"));
  const others = document.getElementById("others");
  data.others.forEach((other, index) => {
    const box = element("input", { type: "checkbox", checked: "" });
    box.addEventListener("change", () => {
      if (box.checked) state.others.add(other.name);
      else state.others.delete(other.name);
      state.view = null;
      drawChart();
    });
    const line = element("span", { style: `color:${DASHED[index % DASHED.length]}`, "aria-hidden": "true" }, " \u2504\u2504 ");
    const best = element("span", { class: "best" });
    others.append(element("li", {}, element("label", {}, box, line, other.name, best)));
  });
  others.parentElement.hidden = !data.others.length;
}

function makeTable() {
  const table = document.getElementById("trials");
  const body = table.tBodies[0];
  for (const head of table.tHead.rows[0].cells) {
    const button = element("button", { type: "button" }, head.textContent);
    head.replaceChildren(button);
    button.addEventListener("click", () => sortBy(table, head));
  }
  for (const row of body.rows) {
    const cell = row.cells[0];
    const button = element("button", { type: "button" }, cell.textContent);
    button.addEventListener("click", () => {
      select(row.dataset.trial);
      document.getElementById("chosen").scrollIntoView({ block: "nearest" });
    });
    cell.replaceChildren(button);
  }
}

function sortBy(table, head) {
  const ascending = head.getAttribute("aria-sort") !== "ascending";
  for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const key = (row) => row.cells[head.cellIndex].dataset.value ?? row.cells[head.cellIndex].textContent;
  const isNumber = head.classList.contains("number");
  const compare = (a, b) => (isNumber ? Number(a) - Number(b) : a.localeCompare(b));
  const rows = [...table.tBodies[0].rows].sort((a, b) => {
    const [first, second] = [key(a), key(b)];
    if (first === "" || second === "") return (first === "") - (second === "");
    return ascending ? compare(first, second) : compare(second, first);
  });
  table.tBodies[0].append(...rows);
}

function makeSearch() {
  const holder = document.getElementById("search");
  if (data.hypervolume.length > 1)
    holder.append(element("h3", {}, "Hypervolume by device seconds"), lineChart(data.hypervolume, "s", "hypervolume"));
  for (const [metric, shares] of Object.entries(data.importances)) {
    const rows = Object.entries(shares).map(([name, share]) => [
      name,
      element("meter", { min: 0, max: 1, value: share, "aria-label": `importance of ${name}` }),
      share.toFixed(2),
    ]);
    if (rows.length) holder.append(element("h3", {}, `What ${metric} depends on`), plainTable(["parameter", "bar", "share"], rows));
  }
}

makeTable();
makeSearch();
if (finished.length) {
  document.getElementById("interactive").hidden = false;
  document.getElementById("picture")?.remove();
  makeLegend();
  makeAfford();
  for (const [id, action] of [["closer", () => zoom(0.6)], ["farther", () => zoom(1 / 0.6)], ["whole", resetView]])
    document.getElementById(id).addEventListener("click", action);
  document.getElementById("budget").value = 1000;
  slide();
  new ResizeObserver(drawChart).observe(document.getElementById("chart"));
}
