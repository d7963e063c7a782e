"use strict";
/* The index: a long table of which only the lines in view exist, filtered and sorted; the filter lives in the address. */

(() => {
  const { keys, rows, states, top, sessions, urgent_below } = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const lines = rows.map((values, index) => {
    const one = { index };
    keys.forEach((key, k) => { one[key] = values[k]; });
    one.text = [one.name, one.folder, one.signal, one.state, states[one.state], one.model, one.why, one.acquired, one.review, one.same].join("\n").toLowerCase();
    return one;
  });
  const home = location.href.split("#")[0];
  const reviews = new Reviews(home);
  const known = new Set(lines.map((one) => one.id));
  const body = byId("images").querySelector("tbody");
  const ROW_PX = 77, SPARE = 8;
  const view = { query: "", state: "", session: null, only: "", sort: "", down: false };
  let shown = lines, ordered = lines; // `ordered`: also those that only the choice of reviewed or open ones hides
  const analysed = new Map();
  for (const one of lines) {
    if (!analysed.has(one.folder)) analysed.set(one.folder, []);
    if (one.state === "analysed") analysed.get(one.folder).push(one);
  }

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

  /* What was said in this browser counts at once: an image is done when it was looked at, is unusable, or each of its
     defects was judged. */
  let local = new Map();
  function recount() {
    local = new Map();
    for (const image of reviews.images((found) => known.has(found.image_id))) {
      const people = Object.values(image.people);
      const judged = new Set(people.flatMap((person) => Object.entries(person.defects).filter(([, mark]) => mark.verdict !== "none").map(([key]) => key))).size;
      const is = (part) => people.some((person) => person[part] && person[part].is);
      const missed = people.reduce((sum, person) => sum + Object.values(person.missed).filter((mark) => !mark.withdrawn).length, 0);
      const words = [judged && `${judged} marked`, missed && `${missed} missed`, is("looked") && "looked at", is("unusable") && "unusable"].filter(Boolean);
      local.set(image.image_id, { judged, looked: is("looked") || is("unusable"), text: words.join(", ") });
    }
  }
  const here_said = (one) => local.get(one.id) || { judged: 0, looked: false, text: "" };
  const reviewed = (one) => one.reviewed || Boolean(here_said(one).text);
  const open = (one) => one.state === "analysed" && !one.done && !here_said(one).looked && !(one.flagged > 0 && here_said(one).judged >= one.flagged);
  const fresh = (one) => urgent(one) && !seen.has(one.id);

  const address = (one) => (one.base ? `${one.base}/${one.id}.html${here() ? `#${new URLSearchParams({ from: here() })}` : ""}` : "");

  function tableRow(one, place) {
    const row = element("tr", "row");
    row.setAttribute("aria-rowindex", place + 2);
    const href = address(one);
    const picture = element("td");
    if (href) {
      const image = element("img", "thumb");
      image.loading = printing ? "eager" : "lazy";
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
    if (one.series) {
      const link = element("a", "", one.later ? "its series" : "a series");
      link.href = one.series;
      path.replaceChildren(link, ` · ${one.folder || ""}`);
    }
    name.append(title, path, element("span", "path", [one.signal, one.pixel_text, one.model, one.grains_text].filter(Boolean).join(" · ")));
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
    if (one.same) {
      const same = element("span", "why said", one.same);
      same.title = one.same;
      notes.append(same);
    }
    for (const [text, where] of [[one.review, ""], [here_said(one).text, "in this browser: "]]) {
      if (!text) continue;
      const review = element("span", "why said", `✓ ${where}${text}`);
      review.title = text;
      notes.append(review);
    }
    row.append(picture, name, state, pair(one.density_text, one.interval_text), graph, pair(one.defects_text, one.tested_text), pair(one.loss_text, one.quality_text), notes);
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

  let painted = "", printing = false;
  function paint(force) {
    const start = -body.getBoundingClientRect().top;
    const first = printing ? 0 : Math.max(0, Math.min(shown.length, Math.floor(start / ROW_PX) - SPARE));
    const last = printing ? shown.length : Math.max(first, Math.min(shown.length, Math.ceil((start + window.innerHeight) / ROW_PX) + SPARE));
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
    const wanted = wordsOf(view.query);
    const only = { urgent, new: fresh, reviewed, open }[view.only];
    ordered = lines.filter(
      (one) =>
        (view.only === "frames" || !one.later || urgent(one)) &&
        (!view.state || one.state === view.state) &&
        (view.session === null || one.folder === view.session) &&
        wanted.every((word) => one.text.includes(word)),
    );
    if (view.sort) {
      const turn = view.down ? -1 : 1;
      const value = view.sort === "name" ? (one) => `${one.folder}/${one.name}\n${one.id}` : (one) => (one[view.sort] === "" ? null : one[view.sort]);
      ordered.sort((a, b) => {
        const x = value(a), y = value(b);
        if (x === null || y === null) return (x === null) - (y === null) || a.index - b.index;
        return (x < y ? -turn : x > y ? turn : 0) || a.index - b.index;
      });
    }
    shown = only ? ordered.filter(only) : ordered;
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
    view.only = ["urgent", "new", "reviewed", "open", "frames"].includes(parts.get("only")) ? parts.get("only") : "";
    byId("only").value = view.only;
    view.down = sort.startsWith("-");
    view.sort = document.querySelector(`#images th[data-sort="${CSS.escape(sort.replace(/^-/, ""))}"]`) ? sort.replace(/^-/, "") : "";
    byId("query").value = view.query;
    arrange();
    go(parts.get("go"), parts.get("at"));
  }

  /* A page asks for its neighbour in the order shown here: pages of finished shards need not know what came later. */
  function go(where, at) {
    if (!["next", "previous", "open"].includes(where)) return;
    const wanted = where === "open" ? open : (one) => shown.includes(one), place = ordered.findIndex((one) => one.id === at);
    const rest = where === "previous" ? ordered.slice(0, Math.max(place, 0)).reverse() : ordered.slice(place + 1);
    const around = where === "open" ? [...rest, ...ordered.slice(0, Math.max(place, 0))] : rest;
    const other = place >= 0 && around.find((one) => one.base && wanted(one));
    if (other) {
      location.replace(address(other));
      return;
    }
    remember();
    const end = { next: "That was the last image.", previous: "That was the first image.", open: "Every image shown here is reviewed." }[where];
    byId("shown").textContent = place < 0 ? "That image is not among those shown." : end;
  }

  /* How many of a folder's images are reviewed. */
  function bar(done, all) {
    const cell = element("td", "num"), track = element("div", "bar-track"), part = element("div", "bar-part");
    track.setAttribute("aria-hidden", "true");
    part.style.width = `${all ? (100 * done) / all : 0}%`;
    track.append(part);
    cell.append(all ? `${done} of ${all}` : "–", track);
    return cell;
  }

  /* From when to when: days, and hours within one day. */
  function spanOf(from, to) {
    const [day, hour] = from.split(" "), [last, later] = to.split(" ");
    if (!to) return from;
    return day === last ? `${day} ${hour} to ${later}` : `${day} to ${last}`;
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
      const members = analysed.get(one.folder) || [], done = members.length - members.filter(open).length;
      row.append(head, element("td", "soft", spanOf(one.from, one.to)), number(one.images), number(one.analysed), pair(one.density_text, one.interval_text), bar(done, members.length), number(one.urgent));
      return row;
    }));
  }

  function paintLocal() {
    recount();
    paintSessions();
    if (body.childElementCount) arrange();
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
  paintLocal();
  recall();
  printable((all) => { printing = all; paint(true); });
})();
