"use strict";
/* The page of one image: ties viewer, gallery, review and keyboard together. */

(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const found = data.defects;
  const all = found.row.map((_, index) => {
    const one = { index, shown: true, verdict: "", other_kind: "" };
    for (const key of Object.keys(found)) one[key] = found[key][index];
    return one;
  });
  const viewer = new Viewer(data, all);
  const gallery = new Gallery(data, all, viewer);
  const home = new URL("../index.html", location.href).href;
  const reviews = new Reviews(home);
  window.oddlattice = { viewer, gallery, reviews, data };

  // ---------------------------------------------------------------- from image to image, in the order of the index
  const from = new URLSearchParams(location.hash.slice(1)).get("from") || "";
  for (const link of document.querySelectorAll("[data-go]")) {
    const parts = new URLSearchParams(from);
    if (link.dataset.go) {
      parts.set("go", link.dataset.go);
      parts.set("at", data.image_id);
    }
    const text = parts.toString();
    link.href = `../index.html${text ? `#${text}` : ""}`;
  }

  // ---------------------------------------------------------------- choosing a defect
  function cellPx() {
    const { nodes } = data;
    if (!nodes || nodes.u.length < 2) return 30;
    const wide = nodes.v.length;
    return Math.hypot(nodes.row[wide] - nodes.row[0], nodes.col[wide] - nodes.col[0]) / 10 / (nodes.u[1] - nodes.u[0]);
  }

  const cellOf = (one) => (one.column === null ? "" : [one.grain, one.cell_u, one.cell_v, one.column].join(":"));

  /* What an address says of a defect: its class and place, which outlive a run; and its cell, by which tables name it. */
  function linkTo(one) {
    const parts = new URLSearchParams(Reviews.link({ found_kind: nameOf(one), row_px: one.row, col_px: one.col }));
    if (cellOf(one)) parts.set("cell", cellOf(one));
    return parts.toString();
  }

  function choose(index, fromList) {
    viewer.here = index;
    const one = all[index];
    if (one) {
      const panel = byId("chosen") && byId("chosen").getBoundingClientRect();
      if (panel && (panel.top < 0 || panel.bottom > window.innerHeight)) byId("bench").scrollIntoView(); // figures and verdict at once
      viewer.goTo(one.row, one.col, Math.max(10 * cellPx(), one.radius ? one.radius * 3 : 0));
      if (!fromList) gallery.reveal(index);
    }
    if (one) { // the address names the defect
      const parts = new URLSearchParams(location.hash.slice(1));
      parts.delete("defect");
      parts.delete("cell");
      for (const [key, value] of new URLSearchParams(linkTo(one))) parts.set(key, value);
      history.replaceState(null, "", `${location.pathname}${location.search}#${parts}`);
    }
    gallery.paint(true);
    paintChosen();
    viewer.draw();
  }

  const step = (by) => { const index = gallery.beside(by); if (index >= 0) choose(index, false); };
  gallery.onchoose = choose;
  viewer.onpick = (index) => { if (index >= 0) choose(index, false); };
  for (const [id, by] of [["defect-next", 1], ["defect-previous", -1]]) if (byId(id)) byId(id).addEventListener("click", () => step(by));
  for (const box of document.querySelectorAll("[data-kind]")) box.addEventListener("change", () => gallery.arrange());

  // ---------------------------------------------------------------- layers and contrast
  if (!("filter" in CanvasRenderingContext2D.prototype)) { // Safari: it cannot colour a canvas, so it shows what needs no colouring
    for (const id of ["show-difference", "show-z", "contrast"]) {
      const control = byId(id);
      if (!control) continue;
      control.disabled = true;
      (control.closest("label") || control).title = "This browser cannot colour pictures; Firefox, Chrome and Edge can.";
    }
  }
  const NARROW = 1 / 16; // the narrowest range, as a part of the whole
  for (const name of Object.keys(viewer.show)) {
    const box = byId(`show-${name}`), fade = byId(`fade-${name}`);
    if (!box) { viewer.show[name] = false; continue; }
    const take = () => {
      viewer.show[name] = box.checked;
      viewer.fade[name] = fade.value / 100;
      fade.disabled = !box.checked;
      if (byId(`ramp-${name}`)) byId(`ramp-${name}`).hidden = !box.checked;
      if (byId(`tools-${name}`)) byId(`tools-${name}`).hidden = !box.checked;
      if (byId(`range-${name}`)) byId(`range-${name}`).disabled = !box.checked;
      viewer.refresh();
    };
    box.addEventListener("change", take);
    fade.addEventListener("input", take);
    take();
  }
  for (const [key, source] of Object.entries(data.maps)) {
    const range = byId(`range-${key}`);
    range.value = 100 * (1 - Math.log(source.start / source.limit) / Math.log(NARROW));
    const take = () => viewer.range(key, NARROW ** (1 - range.value / 100));
    range.addEventListener("input", take);
    take();
  }
  if (data.strain) {
    byId("strain-part").addEventListener("input", () => viewer.strainOf(byId("strain-part").value));
    viewer.strainOf(byId("strain-part").value);
  }
  const flip = (name) => { const box = byId(`show-${name}`); if (box) box.click(); };
  const alone = () => { for (const name of ["prediction", "difference", "z"]) if (byId(`show-${name}`) && byId(`show-${name}`).checked) flip(name); };

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

  // ---------------------------------------------------------------- review
  const say = (alter) => {
    if (!reviews.reviewer) {
      byId("review-says").textContent = "Who are you? Give your name first; it goes with every mark.";
      byId("reviewer").focus();
      return false;
    }
    reviews.say(data.image_id, data.path, data.scan_id, alter);
    return true;
  };
  const nameOf = (one) => (data.kinds[one.kind_text] ? one.kind_text : "unknown");
  const keyIn = (marks, one) => Reviews.find(marks, { found_kind: nameOf(one), row_px: one.row, col_px: one.col }, Math.max(data.near_px, one.radius || 0));

  /* Marks of all people on a defect: those taken up by the last run, and what was said here since. */
  function marksOf(one, local) {
    const people = new Map(one.said.map(([who, verdict, kind, note, at]) => [who, { who, verdict, kind, note, at }]));
    for (const [who, person] of Object.entries(local.people)) {
      const mark = person.defects[keyIn(person.defects, one)], before = people.get(who);
      if (mark && (!before || mark.at >= before.at)) people.set(who, { who, ...mark });
    }
    return [...people.values()].filter((mark) => mark.verdict !== "none" || mark.note);
  }

  function mark(verdict, kind = "", note = null, advance = false) {
    const one = all[viewer.here];
    if (!one) {
      byId("review-says").textContent = "Choose a defect first.";
      return;
    }
    const next = advance && byId("go-on").checked ? gallery.beside(1) : -1;
    const done = say((mine, at) => {
      const key = keyIn(mine.defects, one), before = mine.defects[key] || (one.said.filter(([who]) => who === reviews.reviewer).map(([, v, k, n]) => ({ verdict: v, kind: k, note: n }))[0]);
      mine.defects[key] = {
        verdict: verdict === null ? (before ? before.verdict : "none") : verdict,
        kind: verdict === null ? (before ? before.kind || "" : "") : kind,
        found_kind: nameOf(one),
        site: one.site,
        cell_u: one.cell_u,
        cell_v: one.cell_v,
        row_px: one.row,
        col_px: one.col,
        note: note === null ? (before ? before.note || "" : "") : note,
        at,
      };
    });
    if (done && next >= 0 && next !== one.index) choose(next, false);
  }

  function paintChosen() {
    const panel = byId("chosen");
    if (!panel) return;
    const one = all[viewer.here];
    for (const control of panel.querySelectorAll("button, select, textarea")) control.disabled = !one;
    const marks = reviews.mine(data.image_id).defects, mine = one && marks[keyIn(marks, one)];
    const taken = one && one.said.find(([who]) => who === reviews.reviewer);
    const now = mine || (taken ? { verdict: taken[1], kind: taken[2], note: taken[3] } : { verdict: "none", kind: "", note: "" });
    for (const button of panel.querySelectorAll("[data-verdict]")) button.setAttribute("aria-pressed", String(Boolean(one) && button.dataset.verdict === now.verdict));
    byId("other-kind").value = one && now.verdict === "other" ? now.kind : "";
    byId("other-kind").classList.toggle("set", Boolean(one) && now.verdict === "other");
    if (document.activeElement !== byId("defect-note")) byId("defect-note").value = one ? now.note : "";
    byId("chosen-name").replaceChildren(...(one ? [gallery.mark(one.kind), `${one.kind_text} ${one.site}`.trim(), element("span", "soft", one.place_text)] : [element("span", "soft", "No defect is chosen")]));
    const others = one ? marksOf(one, reviews.of(data.image_id)).filter((m) => m.who !== reviews.reviewer) : [];
    byId("chosen-others").textContent = others.map((m) => `${m.who}: ${m.verdict === "other" ? `other kind, ${m.kind}` : m.verdict === "none" ? "note" : m.verdict}${m.note ? ` (${m.note})` : ""}`).join("; ");
  }

  function regionsNow(local) {
    const found = data.said.regions.map(([who, corners]) => ({ who, corners, id: "" }));
    for (const [who, person] of Object.entries(local.people)) {
      for (const region of Object.values(person.regions)) {
        const known = found.findIndex((r) => r.who === who && JSON.stringify(r.corners) === JSON.stringify(region.corners_px));
        if (known >= 0) found.splice(known, 1);
        if (!region.withdrawn) found.push({ who, corners: region.corners_px, id: region.id });
      }
    }
    return found;
  }

  function addRegion(corners) {
    const rounded = corners.map((corner) => corner.map((x) => Math.round(x * 10) / 10));
    say((mine, at) => {
      const id = `r${at.replace(/\D/g, "")}`;
      mine.regions[id] = { id, corners_px: rounded, withdrawn: false, at };
    });
    draw(false);
  }

  function withdraw(region) {
    say((mine, at) => {
      const id = region.id || `r${at.replace(/\D/g, "")}`;
      mine.regions[id] = { id, corners_px: region.corners, withdrawn: true, at };
    });
  }

  function draw(on) {
    viewer.drawing = on;
    byId("region-draw").setAttribute("aria-pressed", String(on));
    byId("stage").classList.toggle("drawing", on || viewer.adding);
  }

  /* Defects that people added, by the last run's reviews and here. */
  function missedNow(local) {
    const found = new Map(data.said.missed.map(([who, id, row, col, kind]) => [`${who} ${id}`, { who, id, row, col, kind }]));
    for (const [who, person] of Object.entries(local.people)) {
      for (const mark of Object.values(person.missed)) {
        if (mark.withdrawn) found.delete(`${who} ${mark.id}`);
        else found.set(`${who} ${mark.id}`, { who, id: mark.id, row: mark.row_px, col: mark.col_px, kind: mark.kind });
      }
    }
    return [...found.values()];
  }

  /* A column that the program did not flag: the tested column at that place, or the place itself. */
  function addMissed(row, col) {
    const column = viewer.columns.near(row, col), place = column === null ? [row, col] : viewer.columns.place(column);
    say((mine, at) => {
      const id = `m${at.replace(/\D/g, "")}`, [row_px, col_px] = place.map((x) => Math.round(x * 100) / 100);
      mine.missed[id] = { id, row_px, col_px, kind: "", note: "", withdrawn: false, at };
    });
  }

  function takeBack(one) {
    say((mine, at) => { mine.missed[one.id] = { id: one.id, row_px: one.row, col_px: one.col, kind: one.kind, note: "", withdrawn: true, at }; });
  }

  function add(on) {
    viewer.adding = on;
    byId("missed-add").setAttribute("aria-pressed", String(on));
    byId("stage").classList.toggle("drawing", on || viewer.drawing);
  }

  function paintMissed(local) {
    const missed = missedNow(local);
    viewer.missed = missed;
    byId("missed").replaceChildren(...missed.map((one, k) => {
      const item = element("li"), go = element("button", "", `Missed defect ${k + 1}`);
      go.type = "button";
      go.addEventListener("click", () => viewer.goTo(one.row, one.col, 10 * cellPx()));
      item.append(go, element("span", "soft", one.who));
      if (one.who === reviews.reviewer) {
        const away = element("button", "", "Remove");
        away.type = "button";
        away.setAttribute("aria-label", `Remove missed defect ${k + 1}`);
        away.addEventListener("click", () => takeBack(one));
        item.append(away);
      }
      return item;
    }));
    byId("missed").hidden = !missed.length;
  }

  function paintReview() {
    const local = reviews.of(data.image_id), mine = reviews.mine(data.image_id);
    for (const one of all) {
      const now = Reviews.verdict(marksOf(one, local));
      one.verdict = now.verdict;
      one.other_kind = now.kind;
    }
    const regions = regionsNow(local);
    viewer.regions = regions.map((region) => region.corners);
    byId("regions").replaceChildren(...regions.map((region, k) => {
      const item = element("li"), go = element("button", "", `Region ${k + 1}`);
      go.type = "button";
      go.addEventListener("click", () => {
        const [rows, cols] = [0, 1].map((i) => region.corners.map((corner) => corner[i]));
        viewer.goTo((Math.min(...rows) + Math.max(...rows)) / 2, (Math.min(...cols) + Math.max(...cols)) / 2, 1.4 * Math.max(Math.max(...rows) - Math.min(...rows), Math.max(...cols) - Math.min(...cols), 20));
      });
      item.append(go, element("span", "soft", region.who));
      if (region.who === reviews.reviewer) {
        const away = element("button", "", "Include again");
        away.type = "button";
        away.setAttribute("aria-label", `Include region ${k + 1} again`);
        away.addEventListener("click", () => withdraw(region));
        item.append(away);
      }
      return item;
    }));
    byId("regions").hidden = !regions.length;
    paintMissed(local);
    byId("looked").checked = mine.looked ? mine.looked.is : data.said.looked.some(([who]) => who === reviews.reviewer);
    const was = data.said.unusable.some(([who]) => who === reviews.reviewer);
    byId("unusable").checked = mine.unusable ? mine.unusable.is : was;
    const said = data.said.notes.find(([who]) => who === reviews.reviewer);
    if (document.activeElement !== byId("image-note")) byId("image-note").value = mine.note ? mine.note.text : said ? said[1] : "";
    if (document.activeElement !== byId("reviewer")) byId("reviewer").value = reviews.reviewer;
    const done = all.filter((one) => one.verdict).length;
    if (byId("list-done")) byId("list-done").textContent = done ? `${done} of ${all.length} reviewed` : "";
    const here = reviews.count([local]), everywhere = reviews.count(ours());
    byId("export").disabled = !everywhere.all;
    byId("export-count").textContent = everywhere.all ? `${everywhere.all} on ${everywhere.images} image${everywhere.images > 1 ? "s" : ""}` : "";
    const fresh = everywhere.fresh ? `${everywhere.fresh} not exported yet.` : "All exported.";
    byId("review-says").textContent = !reviews.lasting
      ? "This browser keeps nothing for pages from disk: export before you leave the page."
      : here.all || everywhere.all ? `${here.all} statement${here.all === 1 ? "" : "s"} on this image are kept in this browser. ${fresh}` : "";
    gallery.arrange();
    paintChosen();
  }

  const ours = () => reviews.images((image) => image.home === home || image.image_id === data.image_id);
  reviews.onchange = paintReview;
  if (byId("chosen")) {
    for (const button of document.querySelectorAll("[data-verdict]")) {
      button.addEventListener("click", () => mark(button.getAttribute("aria-pressed") === "true" ? "none" : button.dataset.verdict, "", null, button.getAttribute("aria-pressed") !== "true"));
    }
    byId("other-kind").addEventListener("change", () => mark(byId("other-kind").value ? "other" : "none", byId("other-kind").value, null, false));
    byId("defect-note").addEventListener("change", () => mark(null, "", byId("defect-note").value.trim().slice(0, 4000)));
  }
  if (byId("copy-link")) {
    byId("copy-link").addEventListener("click", async () => {
      const link = new URL(location.href);
      link.hash = linkTo(all[viewer.here]);
      try {
        await navigator.clipboard.writeText(link.href);
        byId("copy-link").textContent = "Copied";
      } catch {
        byId("copy-link").textContent = "Copy the address bar";
      }
      setTimeout(() => { byId("copy-link").textContent = "Copy link"; }, 2000);
    });
  }
  byId("reviewer").addEventListener("change", () => { reviews.reviewer = byId("reviewer").value.trim().slice(0, 100); });
  byId("unusable").addEventListener("change", () => {
    const is = byId("unusable").checked;
    if (!say((mine, at) => { mine.unusable = { is, at }; })) byId("unusable").checked = !is;
  });
  byId("looked").addEventListener("change", () => {
    const is = byId("looked").checked;
    if (!say((mine, at) => { mine.looked = { is, at }; })) byId("looked").checked = !is;
  });
  byId("image-note").addEventListener("change", () => {
    const text = byId("image-note").value.trim().slice(0, 4000);
    say((mine, at) => { mine.note = { text, at }; });
  });
  byId("region-draw").addEventListener("click", () => { add(false); draw(!viewer.drawing); });
  byId("missed-add").addEventListener("click", () => { draw(false); add(!viewer.adding); });
  viewer.onadd = addMissed;
  byId("region-seen").addEventListener("click", () => addRegion(viewer.seen()));
  viewer.onregion = addRegion;
  byId("export").addEventListener("click", () => {
    const name = reviews.save(ours());
    byId("review-says").textContent = `Saved as ${name}. Put it into the archive’s review folder, or beside the report’s index.html: the next run takes it up.`;
  });
  if (byId("go-on")) {
    byId("go-on").checked = reviews.get("oddlattice.go-on") !== "no";
    byId("go-on").addEventListener("change", () => reviews.set("oddlattice.go-on", byId("go-on").checked ? "yes" : "no"));
  }

  // ---------------------------------------------------------------- keyboard
  const link = (id) => { const found = byId(id); if (found) found.click(); };
  const press = (selector) => { const found = document.querySelector(selector); if (found && !found.disabled) found.click(); };
  const anywhere = {
    n: () => step(1), p: () => step(-1), "[": () => link("previous"), "]": () => link("next"), g: () => link("next-open"), f: () => press("#missed-add"), c: () => press("#looked"), "?": () => byId("help-dialog").showModal(),
    a: () => press('[data-verdict="confirmed"]'), x: () => press('[data-verdict="rejected"]'), o: () => byId("other-kind") && byId("other-kind").focus(),
    t: () => byId("defect-note") && byId("defect-note").focus(), e: () => draw(!viewer.drawing),
    i: alone, b: () => flip("prediction"), d: () => flip("difference"), z: () => flip("z"),
    r: () => flip("raw"), m: () => flip("marks"), l: () => flip("cells"), k: () => flip("mask"), h: () => flip("grains"), y: () => flip("boundaries"), s: () => flip("strain"),
    "+": () => viewer.zoom(1.5), "=": () => viewer.zoom(1.5), "-": () => viewer.zoom(1 / 1.5), 0: () => viewer.whole(), 1: () => viewer.native(),
  };
  const inViewer = {
    ArrowLeft: () => viewer.move(60, 0), ArrowRight: () => viewer.move(-60, 0), ArrowUp: () => viewer.move(0, 60), ArrowDown: () => viewer.move(0, -60),
    Escape: () => { draw(false); add(false); },
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || byId("help-dialog").open) return;
    const focus = document.activeElement;
    const inside = focus === byId("stage");
    const typing = focus && (["SELECT", "TEXTAREA"].includes(focus.tagName) || (focus.tagName === "INPUT" && focus.type !== "checkbox"));
    if (typing) {
      if (event.key === "Escape") focus.blur();
      return;
    }
    const act = (inside && inViewer[event.key]) || ((inside || byId("keys").checked) && anywhere[event.key.length === 1 ? event.key.toLowerCase() : event.key]);
    if (!act) return;
    event.preventDefault();
    act();
  });

  paintReview();
  /* The defect that the address names: by class and place, the nearest within reach; by its cell, as tables name it
     (grain:cell_u:cell_v:column); or by its number, as older pages did. */
  function wanted() {
    const parts = new URLSearchParams(location.hash.slice(1)), at = Reviews.linked(parts.get("at"));
    if (!at && parts.get("cell")) return all.findIndex((one) => cellOf(one) === parts.get("cell"));
    if (!at) return parts.get("defect") === null ? -1 : Number(parts.get("defect"));
    let best = -1, nearest = Infinity;
    for (const one of all) {
      const away = Math.hypot(one.row - at.row, one.col - at.col);
      if (Reviews.classOf(nameOf(one)) === at.name && away <= Math.max(data.near_px, one.radius || 0) && away < nearest) [best, nearest] = [one.index, away];
    }
    return best;
  }
  const follow = () => { const index = wanted(); if (all[index] && index !== viewer.here) choose(index, false); };
  window.addEventListener("hashchange", follow);
  follow();
  printable((whole) => gallery.print(whole), () => gallery.sheets());
})();
