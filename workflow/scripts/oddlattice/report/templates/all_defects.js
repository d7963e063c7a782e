"use strict";
/* The gallery: every defect of the archive as a card. Only the cards in view exist; the filter lives in the address. */

(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const { images, defects, sites, verdicts, per_sheet } = data;
  const names = Object.keys(data.kinds), number = defects.at.length;
  const folders = images.path.map((path) => path.slice(0, Math.max(path.lastIndexOf("/"), 0)));
  const reviews = new Reviews(new URL("index.html", location.href).href);
  const cards = byId("cards"), room = byId("room");
  const CARD = { width: 240, height: 148 }, CROP_PX = 72, REACH_PX = 3;
  const chosen = new Set();
  let order = [], here = -1, columns = 1, painted = "", printing = false, marked = new Map();
  const drawn_cards = new Map(); // by place: while the page scrolls, cards that stay in view are kept

  const grains = [...new Set(defects.grain)].filter((grain) => grain !== null).sort((a, b) => a - b);
  for (const [id, values] of [["site", sites], ["grain", grains], ["folder", [...new Set(folders)].sort()], ["model", [...new Set(images.model)].sort()]]) {
    byId(id).append(...values.map((value) => { const option = element("option", "", value || "top folder"); option.value = value; return option; }));
    byId(id).closest("label").hidden = values.length < 2;
  }
  const chance = (value) => (value < 0.005 ? "< 1 %" : value >= 0.995 ? "> 99 %" : `${Math.round(100 * value)} %`);
  const grouped = (value) => (value < 10000 ? String(value) : String(value).replace(/\B(?=(\d{3})+$)/g, "\u202f"));
  const signed = (value) => `${value > 0 ? "+" : ""}${value.toFixed(0).replace("-", "−")}`;
  const FILTERS = ["q", "kind", "site", "grain", "folder", "model", "review", "probability", "least", "sort"];
  const value = (id) => byId(id).value;

  // ---------------------------------------------------------------- what people said
  const about = (k) => ({ found_kind: names[defects.kind[k]], row_px: defects.row[k], col_px: defects.col[k] });

  /* Verdicts given in this browser, by defect; only images with such are looked at. */
  function recount() {
    marked = new Map();
    const number_of = new Map(images.id.map((id, k) => [id, k])), local = new Map();
    for (const image of reviews.images((found) => number_of.has(found.image_id))) local.set(number_of.get(image.image_id), Object.values(image.people));
    if (local.size) {
      for (let k = 0; k < number; k++) {
        const people = local.get(defects.image[k]);
        if (!people) continue;
        const said = people.map((person) => person.defects[Reviews.find(person.defects, about(k), REACH_PX)]).filter(Boolean);
        if (said.length) marked.set(k, Reviews.verdict(said).verdict);
      }
    }
    const { all, images: many } = reviews.count(reviews.images((found) => number_of.has(found.image_id)));
    byId("export").disabled = !all;
    byId("export-count").textContent = all ? `${all} on ${many} image${many > 1 ? "s" : ""}` : "";
    if (document.activeElement !== byId("reviewer")) byId("reviewer").value = reviews.reviewer;
  }
  const verdict = (k) => (marked.has(k) ? marked.get(k) : verdicts[defects.review[k]]);

  function mark(word) {
    const some = chosen.size ? [...chosen] : here >= 0 ? [order[here]] : [];
    if (!some.length) return say("Choose a defect first.");
    if (!reviews.reviewer) {
      byId("reviewer").focus();
      return say("Give your name first; it goes with every mark.");
    }
    const single = !chosen.size, by_image = new Map();
    for (const k of some) by_image.set(defects.image[k], [...(by_image.get(defects.image[k]) || []), k]);
    const after = reviews.onchange;
    reviews.onchange = () => {};
    for (const [image, list] of by_image) {
      reviews.say(images.id[image], images.path[image], images.scan_id[image], (mine, at) => {
        for (const k of list) {
          const key = Reviews.find(mine.defects, about(k), REACH_PX), before = mine.defects[key];
          mine.defects[key] = { verdict: word, kind: "", ...about(k), site: sites[defects.site[k]] || "", cell_u: defects.cell_u[k], cell_v: defects.cell_v[k], note: before ? before.note || "" : "", at };
        }
      });
    }
    reviews.onchange = after;
    chosen.clear();
    recount();
    say(`${some.length} ${word === "none" ? "taken back" : word}.`);
    if (single && here < order.length - 1) move(1);
    paint(true);
  }

  function say(text) { byId("says").textContent = text; }

  // ---------------------------------------------------------------- which, and in what order
  function arrange() {
    const kind = names.indexOf(value("kind")), site = value("site") ? sites.indexOf(value("site")) : -2, grain = Number(value("grain")), review = value("review");
    const least = Number(value("least")) || 0, probability = (Number(value("probability")) || 0) / 100;
    const wanted = wordsOf(value("q")), texts = images.path.map((path, k) => `${path}\n${images.model[k]}`.toLowerCase());
    const has = (k) => wanted.every((word) => texts[defects.image[k]].includes(word) || `${names[defects.kind[k]]} ${sites[defects.site[k]] || ""}`.toLowerCase().includes(word));
    const fits_image = images.id.map((_, k) => (!value("folder") || folders[k] === value("folder")) && (!value("model") || images.model[k] === value("model")));
    const fits = (said) => !review || (review === "open" ? !said : review === "any" ? Boolean(said) : said === review);
    order = [];
    for (let k = 0; k < number; k++) {
      if ((kind < 0 || defects.kind[k] === kind) && (site === -2 || defects.site[k] === site) && (!grain || defects.grain[k] === grain) && fits_image[defects.image[k]] &&
          (!least || Math.abs(defects.z[k]) >= least) && (!probability || defects.probability[k] >= probability) && fits(verdict(k)) && (!wanted.length || has(k))) order.push(k);
    }
    const by = {
      z: (k) => -Math.abs(defects.z[k] || 0), probability: (k) => -(defects.probability[k] || 0), kind: (k) => defects.kind[k],
      image: (k) => defects.image[k], change: (k) => defects.change[k] || 0,
    }[value("sort")], keys = Float64Array.from({ length: number }, (_, k) => by(k));
    order.sort((a, b) => keys[a] - keys[b] || a - b);
    here = order.length ? 0 : -1;
    cards.scrollTop = 0;
    const parts = new URLSearchParams();
    for (const id of FILTERS) if (value(id) && !(id === "sort" && value(id) === "z")) parts.set(id, value(id));
    history.replaceState(null, "", `${location.pathname}${location.search}${parts.size ? `#${parts}` : ""}`);
    say(order.length < number ? `${grouped(order.length)} of ${grouped(number)} shown` : `${grouped(number)} defects`);
    paint(true);
  }

  function recall() {
    const parts = new URLSearchParams(location.hash.slice(1));
    for (const id of FILTERS) {
      const wanted = parts.get(id) || (id === "sort" ? "z" : "");
      byId(id).value = wanted;
      if (byId(id).value !== wanted) byId(id).value = id === "sort" ? "z" : "";
    }
    arrange();
  }

  // ---------------------------------------------------------------- cards
  const sheetOf = (k) => `${images.page[defects.image[k]].replace(/\.html$/, "")}/crops_${Math.floor(defects.at[k] / per_sheet)}.jpg`;

  function card(place) {
    const k = order[place], image = defects.image[k], said = verdict(k), kind = names[defects.kind[k]];
    const box = element("div", ["card", place === here && "here", chosen.has(k) && "chosen", said].filter(Boolean).join(" "));
    box.id = `card-${place}`;
    box.setAttribute("role", "option");
    box.setAttribute("aria-selected", String(chosen.has(k)));
    box.setAttribute("aria-setsize", order.length);
    box.setAttribute("aria-posinset", place + 1);
    box.dataset.place = place;
    box.style.left = `${(place % columns) * CARD.width}px`;
    box.style.top = `${Math.floor(place / columns) * CARD.height}px`;
    const crops = element("div", "crops"), line = defects.at[k] % per_sheet;
    for (let part = 0; part < (defects.at[k] < 0 ? 0 : 3); part++) {
      const crop = element("div");
      crop.style.backgroundImage = `url("${sheetOf(k)}")`;
      crop.style.backgroundPosition = `${-CROP_PX * part}px ${-CROP_PX * line}px`;
      crops.append(crop);
    }
    const svg = drawn("svg", { class: "mark", viewBox: "-12 -12 24 24", "aria-hidden": "true" });
    svg.append(drawn("path", { d: data.kinds[kind].path, stroke: data.kinds[kind].colour }));
    const head = element("div", "line"), z = defects.z[k] === null ? "" : `z ${defects.z[k].toFixed(1).replace("-", "−")}`;
    head.append(svg, element("b", "", [kind, sites[defects.site[k]]].filter(Boolean).join(" · ")), element("span", "soft", said ? { confirmed: "✓ confirmed", rejected: "✕ rejected", other: "+ other kind", conflict: "! disagreement" }[said] : ""));
    const probability = defects.probability[k] === null ? "" : `real ${chance(defects.probability[k])}`;
    const change = defects.change[k] === null ? "" : `intensity ${signed(100 * defects.change[k])} %`;
    const name = element("div", "soft name", [z, images.path[image].slice(folders[image].length).replace(/^\//, "")].filter(Boolean).join(" · "));
    name.title = images.path[image];
    box.append(crops, head, element("div", "soft", [probability, change].filter(Boolean).join(" · ")), name);
    return box;
  }

  function paint(force) {
    const before = columns;
    columns = Math.max(1, Math.floor((cards.clientWidth - 2) / CARD.width));
    force = force || columns !== before;
    const lines = Math.ceil(order.length / columns), first = printing ? 0 : Math.max(0, Math.floor(cards.scrollTop / CARD.height) - 1);
    const last = printing ? lines : Math.min(lines, Math.ceil((cards.scrollTop + cards.clientHeight) / CARD.height) + 1), key = `${first} ${last} ${columns}`;
    if (!force && key === painted) return;
    painted = key;
    room.style.height = `${lines * CARD.height}px`;
    const from = first * columns, to = Math.min(order.length, last * columns);
    for (const [place, box] of drawn_cards) {
      if (!force && place >= from && place < to) continue;
      box.remove();
      drawn_cards.delete(place);
    }
    const fresh = [], upwards = drawn_cards.has(to - 1);
    for (let place = from; place < to; place++) {
      if (drawn_cards.has(place)) continue;
      drawn_cards.set(place, card(place));
      fresh.push(drawn_cards.get(place));
    }
    if (upwards) room.prepend(...fresh);
    else room.append(...fresh);
    if (byId(`card-${here}`)) cards.setAttribute("aria-activedescendant", `card-${here}`);
    else cards.removeAttribute("aria-activedescendant");
  }

  function move(by) {
    if (!order.length) return;
    here = Math.max(0, Math.min(order.length - 1, here + by));
    const top = Math.floor(here / columns) * CARD.height;
    if (top < cards.scrollTop) cards.scrollTop = top;
    else if (top + CARD.height > cards.scrollTop + cards.clientHeight) cards.scrollTop = top + CARD.height - cards.clientHeight;
    paint(true);
  }

  function toggle(k) {
    if (!chosen.delete(k)) chosen.add(k);
    say(chosen.size ? `${chosen.size} selected` : "");
    paint(true);
  }

  function open(place) {
    const k = order[place];
    location.href = `${images.page[defects.image[k]]}#${Reviews.link(about(k))}`;
  }

  cards.addEventListener("click", (event) => {
    const box = event.target.closest(".card");
    if (!box) return;
    here = Number(box.dataset.place);
    if (event.ctrlKey || event.metaKey || event.shiftKey) toggle(order[here]);
    else open(here);
  });
  cards.addEventListener("scroll", () => requestAnimationFrame(() => paint(false)), { passive: true });
  new ResizeObserver(() => paint(false)).observe(cards);
  for (const id of FILTERS) byId(id).addEventListener("input", arrange);
  byId("confirm").addEventListener("click", () => mark("confirmed"));
  byId("reject").addEventListener("click", () => mark("rejected"));
  byId("take-back").addEventListener("click", () => mark("none"));
  byId("select-all").addEventListener("click", () => {
    if (chosen.size) chosen.clear();
    else for (const k of order) chosen.add(k);
    byId("select-all").textContent = chosen.size ? "Select none" : "Select all shown";
    say(chosen.size ? `${chosen.size} selected` : "");
    paint(true);
  });
  byId("reviewer").addEventListener("change", () => { reviews.reviewer = value("reviewer").trim().slice(0, 100); });
  byId("export").addEventListener("click", () => {
    const known = new Set(images.id), name = reviews.save(reviews.images((found) => known.has(found.image_id)));
    say(`Saved as ${name}. Put it into the archive’s review folder, or beside index.html.`);
  });
  reviews.onchange = () => { recount(); paint(true); };
  const keys = {
    ArrowRight: () => move(1), ArrowLeft: () => move(-1), ArrowDown: () => move(columns), ArrowUp: () => move(-columns),
    Home: () => move(-order.length), End: () => move(order.length), Enter: () => here >= 0 && open(here), " ": () => here >= 0 && toggle(order[here]),
    PageDown: () => move(columns * Math.max(1, Math.floor(cards.clientHeight / CARD.height))), PageUp: () => move(-columns * Math.max(1, Math.floor(cards.clientHeight / CARD.height))),
    a: () => mark("confirmed"), x: () => mark("rejected"), u: () => mark("none"), Escape: () => { chosen.clear(); say(""); paint(true); },
  };
  document.addEventListener("keydown", (event) => {
    const focus = document.activeElement;
    if (event.ctrlKey || event.metaKey || event.altKey || ["INPUT", "SELECT", "TEXTAREA"].includes(focus.tagName)) return;
    if (["Enter", " "].includes(event.key) && ["BUTTON", "A"].includes(focus.tagName)) return;
    const act = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });
  window.addEventListener("hashchange", recall);
  window.oddlattice = { reviews, order: () => order };
  recount();
  recall();
  printable((all) => { printing = all; paint(true); }, () => [...new Set(order.map(sheetOf))]);
})();
