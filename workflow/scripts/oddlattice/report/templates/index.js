"use strict";
/* The index: a long table of which only the lines in view exist, filtered and sorted; the filter lives in the address. */

(() => {
  const { keys, rows, states, top, sessions, urgent_below } = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const lines = rows.map((values, index) => {
    const one = { index };
    keys.forEach((key, k) => { one[key] = values[k]; });
    one.text = [one.name, one.folder, one.signal, one.state, states[one.state], one.model, one.why, one.acquired, one.review].join("\n").toLowerCase();
    return one;
  });
  const home = location.href.split("#")[0];
  const reviews = new Reviews(home);
  const known = new Set(lines.map((one) => one.id));
  const body = byId("images").querySelector("tbody");
  const ROW_PX = 77, SPARE = 8;
  const view = { query: "", state: "", session: null, only: "", sort: "", down: false };
  let shown = lines;

  function forest(one) {
    const svg = drawn("svg", { class: "forest", viewBox: "0 0 100 40", preserveAspectRatio: "none", "aria-hidden": "true" });
    const at = (density) => Math.min(100, (100 * density) / top);
    svg.append(drawn("line", { class: "zero", x1: 0, x2: 0, y1: 0, y2: 40, "vector-effect": "non-scaling-stroke" }));
    if (one.low !== null && one.high !== null) svg.append(drawn("line", { x1: at(one.low), x2: at(one.high), y1: 20, y2: 20, "vector-effect": "non-scaling-stroke" }));
    const mark = drawn("line", { class: "dot", x1: at(one.density), x2: at(one.density), y1: 13, y2: 27, "vector-effect": "non-scaling-stroke" });
    svg.append(mark);
    return svg;
  }

  function pair(value, small) {
    const cell = element("td", "num");
    cell.append(value, element("small", "", small));
    return cell;
  }

  /* What a person has not ticked off yet, kept in this browser: lines for a person that were not there before. */
  const SEEN = `oddlattice.seen:${home}`;
  let seen = new Set();
  try {
    seen = new Set(JSON.parse(reviews.get(SEEN) || "[]"));
  } catch { /* not ours: nothing is seen */ }
  const urgent = (one) => one.urgent < urgent_below;
  const fresh = (one) => urgent(one) && !seen.has(one.id);

  const address = (one) => (one.base ? `${one.base}/${one.id}.html${here() ? `#${new URLSearchParams({ from: here() })}` : ""}` : "");

  function tableRow(one, place) {
    const row = element("tr", "row");
    row.setAttribute("aria-rowindex", place + 2);
    const href = address(one);
    const picture = element("td");
    if (href) {
      const image = element("img", "thumb");
      image.loading = "lazy";
      image.decoding = "async";
      image.width = image.height = 64;
      image.alt = "";
      image.src = `${one.base}/${one.id}/thumbnail.webp`;
      picture.append(image);
    } else picture.append(element("span", "thumb"));
    const name = element("td");
    const title = element(href ? "a" : "span", "name", one.name);
    if (href) title.href = href;
    title.title = one.name;
    const path = element("span", "path", one.folder || "");
    path.title = one.folder;
    name.append(title, path, element("span", "path", [one.signal, one.pixel_text, one.model].filter(Boolean).join(" · ")));
    const state = element("td");
    state.append(element("span", `state ${one.state}`, states[one.state] || one.state));
    if (one.acquired) state.append(element("small", "", one.acquired));
    const flags = [one.unusable && "unusable", fresh(one) && "not seen yet"].filter(Boolean);
    if (flags.length) state.append(element("small", one.unusable ? "flag" : "flag new", flags.join(" · ")));
    const graph = element("td");
    if (one.density !== null) graph.append(forest(one));
    const notes = element("td");
    if (one.why) {
      const why = element("span", one.state === "analysed" ? "why warn" : "why", one.why);
      why.title = one.why;
      notes.append(why);
    }
    if (one.review) {
      const review = element("span", "why said", `✓ ${one.review}`);
      review.title = one.review;
      notes.append(review);
    }
    row.append(picture, name, state, pair(one.density_text, one.interval_text), graph, pair(one.defects_text, one.tested_text), pair(one.loss_text, ""), notes);
    return row;
  }

  function gap(height) {
    const row = element("tr", "gap"), cell = element("td");
    row.setAttribute("aria-hidden", "true");
    cell.colSpan = 8;
    cell.style.height = `${height}px`;
    row.append(cell);
    return row;
  }

  let painted = "";
  function paint(force) {
    const start = -body.getBoundingClientRect().top;
    const first = Math.max(0, Math.min(shown.length, Math.floor(start / ROW_PX) - SPARE));
    const last = Math.max(first, Math.min(shown.length, Math.ceil((start + window.innerHeight) / ROW_PX) + SPARE));
    const key = `${first} ${last}`;
    if (!force && key === painted) return;
    painted = key;
    const focused = document.activeElement && body.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    body.replaceChildren(gap(first * ROW_PX), ...shown.slice(first, last).map((one, k) => tableRow(one, first + k)), gap((shown.length - last) * ROW_PX));
    if (focused) {
      const again = [...body.querySelectorAll("a.name")].find((link) => link.getAttribute("href") === focused);
      if (again) again.focus({ preventScroll: true });
    }
  }

  function arrange() {
    const words = view.query.toLowerCase().split(/\s+/).filter(Boolean);
    const only = { urgent, new: fresh, reviewed: (one) => one.reviewed, open: (one) => one.state === "analysed" && !one.reviewed }[view.only];
    shown = lines.filter(
      (one) =>
        (!view.state || one.state === view.state) &&
        (view.session === null || one.folder === view.session) &&
        (!only || only(one)) &&
        words.every((word) => one.text.includes(word)),
    );
    if (view.sort) {
      const turn = view.down ? -1 : 1;
      const value = view.sort === "name" ? (one) => `${one.folder}/${one.name}\n${one.id}` : (one) => (one[view.sort] === "" ? null : one[view.sort]);
      shown.sort((a, b) => {
        const x = value(a), y = value(b);
        if (x === null || y === null) return (x === null) - (y === null) || a.index - b.index;
        return (x < y ? -turn : x > y ? turn : 0) || a.index - b.index;
      });
    }
    for (const head of document.querySelectorAll("#images th[data-sort]")) {
      if (head.dataset.sort === view.sort) head.setAttribute("aria-sort", view.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    }
    for (const button of document.querySelectorAll("button[data-state]")) button.setAttribute("aria-pressed", String(button.dataset.state === view.state));
    document.querySelector("[data-sort-first]").setAttribute("aria-pressed", String(!view.sort));
    byId("shown").textContent = shown.length === lines.length ? "" : `${shown.length} of ${lines.length} shown`;
    byId("empty").hidden = shown.length > 0;
    byId("session-chip").hidden = view.session === null;
    byId("session-chip").firstElementChild.textContent = view.session || "top folder";
    for (const row of document.querySelectorAll("#session-rows tr")) row.classList.toggle("here", sessions[Number(row.dataset.index)].folder === view.session);
    byId("seen").hidden = !lines.some(fresh);
    byId("images").setAttribute("aria-rowcount", shown.length + 1);
    paint(true);
  }

  function here() {
    const parts = new URLSearchParams();
    if (view.query) parts.set("q", view.query);
    if (view.state) parts.set("state", view.state);
    if (view.session !== null) parts.set("session", view.session);
    if (view.only) parts.set("only", view.only);
    if (view.sort) parts.set("sort", (view.down ? "-" : "") + view.sort);
    return parts.toString();
  }

  function remember() {
    const text = here();
    history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
  }

  function recall() {
    const parts = new URLSearchParams(location.hash.slice(1));
    const sort = parts.get("sort") || "";
    view.query = parts.get("q") || "";
    view.state = parts.get("state") in states ? parts.get("state") : "";
    const session = parts.get("session");
    view.session = sessions.some((one) => one.folder === session) ? session : null;
    view.only = ["urgent", "new", "reviewed", "open"].includes(parts.get("only")) ? parts.get("only") : "";
    byId("only").value = view.only;
    view.down = sort.startsWith("-");
    view.sort = document.querySelector(`#images th[data-sort="${CSS.escape(sort.replace(/^-/, ""))}"]`) ? sort.replace(/^-/, "") : "";
    byId("query").value = view.query;
    arrange();
    go(parts.get("go"), parts.get("at"));
  }

  /* A page asks for its neighbour in the order shown here: pages of finished shards need not know what came later. */
  function go(where, at) {
    if (where !== "next" && where !== "previous") return;
    const pages = shown.filter((one) => one.base), place = pages.findIndex((one) => one.id === at);
    const other = pages[place + (where === "next" ? 1 : -1)];
    if (place >= 0 && other) {
      location.replace(address(other));
      return;
    }
    remember();
    byId("shown").textContent = place < 0 ? "That image is not among those shown." : `That was the ${where === "next" ? "last" : "first"} image.`;
  }

  function paintSessions() {
    const body = byId("session-rows");
    if (!body) return;
    body.replaceChildren(...sessions.map((one, index) => {
      const row = element("tr", "row"), head = element("td"), go = element("button", "go", one.folder || "top folder");
      row.dataset.index = index;
      go.type = "button";
      head.append(go);
      const number = (value) => element("td", "num", value ? String(value) : "–");
      row.append(head, element("td", "soft", [one.from, one.to].filter(Boolean).join(" to ")), number(one.images), number(one.analysed), pair(one.density_text, one.interval_text), number(one.reviewed), number(one.urgent));
      return row;
    }));
  }

  function paintLocal() {
    const found = reviews.images((image) => known.has(image.image_id)), { all, fresh: left, images } = reviews.count(found);
    byId("export").disabled = !all;
    byId("local-short").textContent = left ? `· ${left} not exported yet` : "";
    byId("local").textContent = all
      ? `${all} statement${all > 1 ? "s" : ""} on ${images} image${images > 1 ? "s" : ""} ${all > 1 ? "are" : "is"} kept in this browser; ${left ? `${left} not exported yet.` : "all exported."}`
      : "Nothing has been marked in this browser.";
  }

  function change(values) {
    Object.assign(view, values);
    remember();
    arrange();
  }

  byId("query").addEventListener("input", () => change({ query: byId("query").value }));
  for (const button of document.querySelectorAll("button[data-state]")) button.addEventListener("click", () => change({ state: button.dataset.state }));
  document.querySelector("[data-sort-first]").addEventListener("click", () => change({ sort: "", down: false }));
  byId("clear").addEventListener("click", () => { byId("query").value = ""; change({ query: "", state: "", session: null, only: "" }); byId("only").value = ""; });
  for (const head of document.querySelectorAll("#images th[data-sort]")) {
    head.querySelector("button").addEventListener("click", () => {
      const key = head.dataset.sort;
      change({ sort: key, down: view.sort === key ? !view.down : ["density", "defects", "acquired"].includes(key) });
    });
  }
  body.addEventListener("click", (event) => {
    const row = event.target.closest("tr.row"), link = row && row.querySelector("a.name");
    if (link && event.target !== link && !String(window.getSelection())) link.click();
  });
  byId("only").addEventListener("change", () => change({ only: byId("only").value }));
  byId("session-clear").addEventListener("click", () => change({ session: null }));
  if (byId("session-rows")) {
    byId("session-rows").addEventListener("click", (event) => {
      const row = event.target.closest("tr.row");
      if (!row) return;
      const { folder } = sessions[Number(row.dataset.index)];
      change({ session: view.session === folder ? null : folder });
    });
  }
  byId("seen").addEventListener("click", () => {
    seen = new Set(lines.filter(urgent).map((one) => one.id));
    reviews.set(SEEN, JSON.stringify([...seen]));
    arrange();
  });
  byId("export").addEventListener("click", () => {
    const name = reviews.save(reviews.images((image) => known.has(image.image_id)));
    byId("local").textContent = `Saved as ${name}. Put it into the archive’s review folder or beside this page.`;
  });
  byId("take").addEventListener("change", async () => {
    const [file] = byId("take").files;
    if (!file) return;
    let says;
    try {
      const images = reviews.take(await file.text(), known);
      says = images ? `${file.name}: statements on ${images} image${images > 1 ? "s" : ""} of this report were taken in.` : `${file.name} says nothing of images of this report.`;
    } catch (error) {
      says = `${file.name} is no review that can be read (${String(error.message).slice(0, 80)}).`;
    }
    byId("take").value = "";
    byId("local").textContent = says;
  });
  reviews.onchange = paintLocal;
  let waiting = false;
  const later = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; paint(false); });
  };
  document.addEventListener("scroll", later, { passive: true });
  window.addEventListener("resize", later);
  window.addEventListener("hashchange", recall);
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !["INPUT", "SELECT"].includes(document.activeElement.tagName)) { event.preventDefault(); byId("query").focus(); }
  });
  paintSessions();
  paintLocal();
  recall();
})();
