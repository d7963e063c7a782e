"use strict";
/* The page of one image: ties viewer, list of defects and keyboard together. */

(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const found = data.defects;
  const all = found.row.map((_, index) => {
    const one = { index, shown: true };
    for (const key of Object.keys(found)) one[key] = found[key][index];
    return one;
  });
  const viewer = new Viewer(data, all);
  window.oddlattice = { viewer, data };

  // ---------------------------------------------------------------- the list of defects
  const scroller = byId("scroller"), body = scroller && scroller.querySelector("tbody");
  const ROW_PX = 71, SPARE = 6;
  const sorting = { key: "z", down: true };
  let order = all.map((one) => one.index);
  const by = { kind: (d) => d.kind_text + d.site, z: (d) => (d.z === null ? null : Math.abs(d.z)), change: (d) => d.change, shift: (d) => d.shift };

  function element(tag, name, text) {
    const node = document.createElement(tag);
    if (name) node.className = name;
    if (text !== undefined) node.textContent = text;
    return node;
  }

  function mark(kind) {
    const space = "http://www.w3.org/2000/svg";
    const svg = document.createElementNS(space, "svg"), path = document.createElementNS(space, "path");
    svg.setAttribute("class", "mark");
    svg.setAttribute("viewBox", "-12 -12 24 24");
    svg.setAttribute("aria-hidden", "true");
    path.setAttribute("d", data.kinds[kind].path);
    path.setAttribute("stroke", data.kinds[kind].colour);
    if (kind === "extended") path.setAttribute("stroke-dasharray", "4 3");
    svg.append(path);
    return svg;
  }

  function pair(cell, value, small) {
    cell.className = "num";
    cell.append(value, element("small", "", small));
    return cell;
  }

  function tableRow(one, place) {
    const row = element("tr", one.index === viewer.here ? "row here" : "row");
    row.dataset.index = one.index;
    row.setAttribute("aria-rowindex", place + 2);
    const pictures = element("td");
    const trio = element("div", "crops");
    if (data.crops) {
      const sheet = Math.floor(one.index / data.crops.per_sheet), line = one.index % data.crops.per_sheet;
      for (let k = 0; k < 3; k++) {
        const part = element("div");
        part.style.backgroundImage = `url("${data.crops.src}${sheet}.webp")`;
        part.style.backgroundPosition = `${-60 * k}px ${-60 * line}px`;
        trio.append(part);
      }
      trio.setAttribute("role", "img");
      trio.setAttribute("aria-label", "Input, prediction and difference");
    }
    pictures.append(trio);
    const kind = element("td");
    const go = element("button", "go");
    go.type = "button";
    go.append(mark(one.kind), one.kind_text);
    go.setAttribute("aria-label", `Go to defect: ${one.kind_text} ${one.site}, row and column ${one.place_text}`);
    kind.append(go, element("small", "", [one.site, one.probability_text, one.area_text].filter(Boolean).join(" · ")), element("small", "", one.place_text));
    row.append(
      pictures,
      kind,
      pair(element("td"), one.z_text, one.q_text === "–" ? "" : `q ${one.q_text}`),
      pair(element("td"), ...one.change_text),
      pair(element("td"), ...one.shift_text),
    );
    return row;
  }

  function gap(height) {
    const row = element("tr", "gap"), cell = element("td");
    row.setAttribute("aria-hidden", "true");
    cell.colSpan = 5;
    cell.style.height = `${height}px`;
    row.append(cell);
    return row;
  }

  let painted = "";
  function paintList(force) {
    if (!scroller) return;
    const first = Math.max(0, Math.floor(scroller.scrollTop / ROW_PX) - SPARE);
    const last = Math.min(order.length, Math.ceil((scroller.scrollTop + scroller.clientHeight) / ROW_PX) + SPARE);
    const key = `${first} ${last} ${viewer.here}`;
    if (!force && key === painted) return;
    painted = key;
    const focused = document.activeElement && document.activeElement.closest("tr.row");
    const kept = focused && body.contains(focused) ? focused.dataset.index : null;
    body.replaceChildren(gap(first * ROW_PX), ...order.slice(first, last).map((index, k) => tableRow(all[index], first + k)), gap((order.length - last) * ROW_PX));
    if (kept !== null) {
      const again = body.querySelector(`tr[data-index="${kept}"] .go`);
      if (again) again.focus({ preventScroll: true });
    }
  }

  function arrange() {
    const off = new Set([...document.querySelectorAll("[data-kind]")].filter((box) => !box.checked).map((box) => box.dataset.kind));
    const site = byId("site") ? byId("site").value : "";
    for (const one of all) one.shown = !off.has(one.kind_text) && (!site || one.site === site);
    const value = by[sorting.key], turn = sorting.down ? -1 : 1;
    order = all.filter((one) => one.shown).map((one) => one.index);
    order.sort((a, b) => {
      const x = value(all[a]), y = value(all[b]);
      if (x === null || y === null) return (x === null) - (y === null) || a - b;
      return (x < y ? -turn : x > y ? turn : 0) || a - b;
    });
    if (scroller) {
      byId("defects").setAttribute("aria-rowcount", order.length + 1);
      byId("list-empty").hidden = order.length > 0;
      byId("list-count").textContent = order.length < all.length ? `${order.length} shown` : "";
    }
    paintList(true);
    viewer.draw();
  }

  function choose(index, fromList) {
    viewer.here = index;
    const one = all[index];
    if (one) {
      viewer.goTo(one.row, one.col, Math.max(10 * cellPx(), one.radius ? one.radius * 3 : 0));
      if (!fromList && scroller) {
        const top = order.indexOf(index) * ROW_PX;
        if (top < scroller.scrollTop || top + 2 * ROW_PX > scroller.scrollTop + scroller.clientHeight)
          scroller.scrollTop = Math.max(0, top - (scroller.clientHeight - ROW_PX) / 2);
      }
    }
    paintList(true);
    viewer.draw();
  }

  function cellPx() {
    const { nodes } = data;
    if (!nodes || nodes.u.length < 2) return 30;
    const wide = nodes.v.length;
    return Math.hypot(nodes.row[wide] - nodes.row[0], nodes.col[wide] - nodes.col[0]) / 10 / (nodes.u[1] - nodes.u[0]);
  }

  function step(by) {
    if (!order.length) return;
    const at = order.indexOf(viewer.here);
    choose(order[at < 0 ? (by > 0 ? 0 : order.length - 1) : (at + by + order.length) % order.length], false);
  }

  if (scroller) {
    scroller.addEventListener("scroll", () => requestAnimationFrame(() => paintList(false)), { passive: true });
    new ResizeObserver(() => paintList(false)).observe(scroller);
    body.addEventListener("click", (event) => {
      const row = event.target.closest("tr.row");
      if (row) choose(Number(row.dataset.index), true);
    });
    for (const head of document.querySelectorAll("#defects th[data-sort]")) {
      head.querySelector("button").addEventListener("click", () => {
        sorting.down = sorting.key === head.dataset.sort ? !sorting.down : head.dataset.sort !== "kind" && head.dataset.sort !== "change";
        sorting.key = head.dataset.sort;
        for (const other of document.querySelectorAll("#defects th[data-sort]")) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", sorting.down ? "descending" : "ascending");
        scroller.scrollTop = 0;
        arrange();
      });
    }
    byId("site").addEventListener("change", arrange);
    byId("defect-next").addEventListener("click", () => step(1));
    byId("defect-previous").addEventListener("click", () => step(-1));
  }
  for (const box of document.querySelectorAll("[data-kind]")) box.addEventListener("change", arrange);
  viewer.onpick = (index) => { if (index >= 0) choose(index, false); };

  // ---------------------------------------------------------------- the viewer's tools
  const mapButtons = [...document.querySelectorAll("[data-map]")];
  const NARROW = 1 / 16; // the narrowest range, as a part of the whole
  const gains = {};
  function setMap(key) {
    if (!mapButtons.some((button) => button.dataset.map === key)) return;
    if (key && key !== nowMap()) {
      const source = data.maps[key];
      byId("gain").value = key in gains ? gains[key] : 100 * (1 - Math.log(source.start / source.limit) / Math.log(NARROW));
    }
    if (key) gains[key] = byId("gain").value;
    for (const button of mapButtons) button.setAttribute("aria-pressed", String(button.dataset.map === key));
    for (const id of ["fade", "gain"]) byId(id).disabled = !key;
    viewer.setMap(key, NARROW ** (1 - byId("gain").value / 100), byId("fade").value / 100);
  }
  const nowMap = () => (mapButtons.find((button) => button.getAttribute("aria-pressed") === "true") || { dataset: { map: "" } }).dataset.map;
  for (const button of mapButtons) button.addEventListener("click", () => setMap(button.dataset.map));
  if (mapButtons.length) {
    for (const id of ["fade", "gain"]) byId(id).addEventListener("input", () => setMap(nowMap()));
    setMap("");
  }
  for (const name of Object.keys(viewer.show)) {
    const box = byId(`show-${name}`);
    if (!box) continue;
    viewer.show[name] = box.checked;
    box.addEventListener("change", () => { viewer.show[name] = box.checked; viewer.draw(); });
  }
  const flip = (name) => { const box = byId(`show-${name}`); if (box) box.click(); };

  byId("contrast").addEventListener("click", () => {
    const tools = byId("contrast-tools");
    tools.hidden = !tools.hidden;
    byId("contrast").setAttribute("aria-expanded", String(!tools.hidden));
  });
  function tone() {
    const gamma = 2 ** (byId("gamma").value / 50);
    byId("black-text").textContent = byId("black").value;
    byId("white-text").textContent = byId("white").value;
    byId("gamma-text").textContent = gamma.toFixed(2);
    viewer.tone(Number(byId("black").value), Number(byId("white").value), gamma, byId("invert").checked);
  }
  for (const id of ["black", "white", "gamma", "invert"]) byId(id).addEventListener("input", tone);
  byId("contrast-reset").addEventListener("click", () => {
    byId("black").value = 0;
    byId("white").value = 100;
    byId("gamma").value = 0;
    byId("invert").checked = false;
    tone();
  });
  tone(); // a browser may have kept the sliders over a reload

  byId("zoom-in").addEventListener("click", () => viewer.zoom(1.5));
  byId("zoom-out").addEventListener("click", () => viewer.zoom(1 / 1.5));
  byId("zoom-fit").addEventListener("click", () => viewer.whole());
  byId("zoom-native").addEventListener("click", () => viewer.native());
  byId("help").addEventListener("click", () => byId("help-dialog").showModal());

  // ---------------------------------------------------------------- keyboard
  const link = (id) => { const found = byId(id); if (found) found.click(); };
  const anywhere = {
    n: () => step(1), p: () => step(-1), "[": () => link("previous"), "]": () => link("next"), "?": () => byId("help-dialog").showModal(),
    i: () => setMap(""), d: () => setMap("difference"), z: () => setMap("z"),
    r: () => flip("raw"), m: () => flip("marks"), l: () => flip("cells"), k: () => flip("mask"),
    "+": () => viewer.zoom(1.5), "=": () => viewer.zoom(1.5), "-": () => viewer.zoom(1 / 1.5), 0: () => viewer.whole(), 1: () => viewer.native(),
  };
  const inViewer = {
    ArrowLeft: () => viewer.move(60, 0), ArrowRight: () => viewer.move(-60, 0), ArrowUp: () => viewer.move(0, 60), ArrowDown: () => viewer.move(0, -60),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || byId("help-dialog").open) return;
    const focus = document.activeElement;
    const inside = focus === byId("stage");
    const typing = focus && (focus.tagName === "SELECT" || (focus.tagName === "INPUT" && focus.type !== "checkbox"));
    if (typing) return;
    const act = (inside && inViewer[event.key]) || ((inside || byId("keys").checked) && anywhere[event.key.length === 1 ? event.key.toLowerCase() : event.key]);
    if (!act) return;
    event.preventDefault();
    act();
  });

  arrange();
})();
