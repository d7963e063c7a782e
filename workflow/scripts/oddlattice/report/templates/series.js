"use strict";
/* The player of a series: frames, markers that live and die, and the line of frames below. */

const data = JSON.parse(document.getElementById("data").textContent);
const get = (id) => document.getElementById(id);
const [rows, cols] = data.shape;
const state = { at: 0, timer: 0, zoom: 1, middle: [rows / 2, cols / 2], chosen: 0 };
const stage = get("stage");
const picture = drawn("image", { x: 0, y: 0, width: cols, height: rows, preserveAspectRatio: "none" });
const marks = drawn("g", {});
const folder = data.frames[0].picture.replace(/[^/]*$/, "");
stage.append(picture, marks);

const checked = (id) => Boolean(get(id)?.checked);

/* Where the first frame used lies in frame k. */
const drift = (k) => data.frames[k].drift || [0, 0];

function placeOf(track, k) {
  const [from, to] = [drift(track.first), k < 0 ? [0, 0] : drift(k)];
  return [track.row + to[0] - from[0], track.col + to[1] - from[1]];
}

function alive(track) {
  return checked("mean") || (data.frames[state.at].used && track.first <= state.at && state.at <= track.last);
}

function drawMarks() {
  marks.replaceChildren();
  if (!checked("marks")) return;
  const size = Math.max(rows, cols) / state.zoom / 700;
  for (const track of data.tracks.filter(alive)) {
    const [row, col] = placeOf(track, checked("mean") ? -1 : state.at);
    const { path, colour } = data.kinds[track.kind];
    const place = `translate(${col + 0.5} ${row + 0.5}) scale(${(track.track === state.chosen ? 1.7 : 1.1) * size})`;
    const mark = drawn("path", { d: path, transform: place, stroke: colour, class: "series-mark" });
    const title = drawn("title", {});
    title.textContent = `track ${track.track}, ${track.kind}, ${track.site}, ${track.probability}`;
    mark.append(title);
    mark.addEventListener("click", () => choose(track.track));
    marks.append(mark);
  }
}

function look() {
  const height = rows / state.zoom, width = cols / state.zoom;
  const held = checked("still") && !checked("mean") ? drift(state.at) : [0, 0];
  const top = state.middle[0] - height / 2 + held[0], left = state.middle[1] - width / 2 + held[1];
  stage.setAttribute("viewBox", `${left} ${top} ${width} ${height}`);
}

function says() {
  const frame = data.frames[state.at];
  if (checked("mean")) return `Mean of ${data.frames.filter((one) => one.used).length} frames, and every column that was odd for a time`;
  const time = frame.time ? `, ${frame.time} s` : "";
  return `Frame ${frame.number}${time}${frame.used ? "" : `, left out: ${frame.why}`} `;
}

function draw() {
  const frame = data.frames[state.at];
  picture.setAttribute("href", checked("mean") ? `${folder}mean.jpg` : frame.picture);
  get("at").value = state.at;
  get("at").setAttribute("aria-valuetext", `frame ${frame.number}`);
  const line = get("says");
  line.textContent = says();
  if (!checked("mean")) {
    const link = element("a", "", "Open this frame");
    link.href = frame.page;
    line.append(link);
  }
  drawMarks();
  look();
  const here = get("when").querySelector(".here");
  if (here) here.setAttribute("x1", state.at + 0.5), here.setAttribute("x2", state.at + 0.5);
  for (const ahead of [1, 2, 3]) new Image().src = data.frames[(state.at + ahead) % data.frames.length].picture;
}

function go(k) {
  state.at = Math.min(Math.max(k, 0), data.frames.length - 1);
  draw();
}

function play(on) {
  clearInterval(state.timer);
  state.timer = on ? setInterval(() => go((state.at + 1) % data.frames.length), 1000 / get("speed").value) : 0;
  get("play").setAttribute("aria-pressed", String(on));
  get("play").textContent = on ? "Pause" : "Play";
}

function choose(track) {
  state.chosen = track;
  for (const row of get("tracks").rows) row.classList.toggle("here", Number(row.dataset.track) === track);
  drawMarks();
}

function zoom(by, at) {
  const before = state.zoom;
  state.zoom = Math.min(Math.max(state.zoom * by, 1), 32);
  if (at) state.middle = state.middle.map((m, k) => at[k] + (m - at[k]) * (before / state.zoom));
  if (state.zoom === 1) state.middle = [rows / 2, cols / 2];
  drawMarks();
  look();
}

function pointed(event) {
  const box = stage.getBoundingClientRect(), view = stage.viewBox.baseVal;
  const scale = Math.min(box.width / view.width, box.height / view.height);
  const x = view.x + view.width / 2 + (event.clientX - box.left - box.width / 2) / scale;
  const y = view.y + view.height / 2 + (event.clientY - box.top - box.height / 2) / scale;
  const held = checked("still") && !checked("mean") ? drift(state.at) : [0, 0];
  return [y - held[0], x - held[1]];
}

function trackRow(track) {
  const row = element("tr", "row");
  row.dataset.track = track.track;
  const span = `${data.frames[track.first].number}–${data.frames[track.last].number}`;
  const button = element("button", "link", String(track.track));
  button.type = "button";
  button.addEventListener("click", () => { choose(track.track); go(track.first); });
  const first = element("td");
  first.append(button);
  row.append(first, element("td", "", track.kind), element("td", "", track.site), element("td", "num", span), element("td", "num", track.probability));
  return row;
}

/* Below the slider: frames left out, when something happened, and where the player is. */
function drawWhen() {
  const line = get("when"), many = data.frames.length;
  line.setAttribute("viewBox", `0 0 ${many} 10`);
  line.setAttribute("preserveAspectRatio", "none");
  data.frames.forEach((frame, k) => { if (!frame.used) line.append(drawn("rect", { x: k, y: 6, width: 1, height: 4, class: "out" })); });
  for (const event of data.events) line.append(drawn("rect", { x: event.at + 0.25, y: 0, width: 0.5, height: 6, class: "happened" }));
  line.append(drawn("line", { class: "here", x1: 0, x2: 0, y1: 0, y2: 10, "vector-effect": "non-scaling-stroke" }));
}

function dragged() {
  let from = null;
  stage.addEventListener("pointerdown", (event) => { from = pointed(event); stage.setPointerCapture(event.pointerId); });
  stage.addEventListener("pointermove", (event) => {
    if (!from || state.zoom === 1) return;
    const to = pointed(event);
    state.middle = state.middle.map((m, k) => m + from[k] - to[k]);
    look();
  });
  stage.addEventListener("pointerup", () => { from = null; });
  stage.addEventListener("wheel", (event) => { event.preventDefault(); zoom(event.deltaY < 0 ? 1.25 : 0.8, pointed(event)); }, { passive: false });
}

function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || ["SELECT", "INPUT"].includes(event.target.tagName)) return;
  const what = {
    ArrowLeft: () => go(state.at - 1), ArrowRight: () => go(state.at + 1), Home: () => go(0), End: () => go(data.frames.length - 1),
    "+": () => zoom(1.5), "-": () => zoom(1 / 1.5), 0: () => zoom(0),
  }[event.key];
  if (event.key === " " && event.target.tagName !== "BUTTON") { event.preventDefault(); play(!state.timer); }
  if (what) { event.preventDefault(); what(); }
}

get("at").max = data.frames.length - 1;
get("tracks").append(...data.tracks.map(trackRow));
drawWhen();
dragged();
get("at").addEventListener("input", () => go(Number(get("at").value)));
get("back").addEventListener("click", () => go(state.at - 1));
get("on").addEventListener("click", () => go(state.at + 1));
get("play").addEventListener("click", () => play(!state.timer));
get("speed").addEventListener("change", () => play(Boolean(state.timer)));
get("in").addEventListener("click", () => zoom(1.5));
get("out").addEventListener("click", () => zoom(1 / 1.5));
get("fit").addEventListener("click", () => zoom(0));
for (const id of ["still", "mean", "marks"]) get(id)?.addEventListener("change", draw);
document.addEventListener("keydown", keys);
for (const button of document.querySelectorAll("button[data-frame]")) {
  const k = data.frames.findIndex((frame) => frame.number === Number(button.dataset.frame));
  button.addEventListener("click", () => { if (get("mean")) get("mean").checked = false; go(k); stage.scrollIntoView({ block: "center" }); });
}
draw();
