"use strict";
/* The gallery: every defect with its crops and numbers; only the rows in view exist. */

const VERDICTS = { confirmed: "✓ confirmed", rejected: "✕ rejected", other: "+ other kind", conflict: "! disagreement" };

class Gallery {
  constructor(data, all, viewer) {
    this.data = data;
    this.all = all;
    this.viewer = viewer;
    this.scroller = document.getElementById("scroller");
    this.body = this.scroller && this.scroller.querySelector("tbody");
    this.order = all.map((one) => one.index);
    this.sorting = { key: "z", down: true };
    this.onchoose = () => {};
    this.painted = "";
    this.printing = false;
    if (this.scroller) this.listen();
  }

  mark(kind) {
    const svg = drawn("svg", { class: "mark", viewBox: "-12 -12 24 24", "aria-hidden": "true" });
    const path = drawn("path", { d: this.data.kinds[kind].path, stroke: this.data.kinds[kind].colour });
    if (kind === "extended") path.setAttribute("stroke-dasharray", "4 3");
    svg.append(path);
    return svg;
  }

  crops(one) {
    const trio = element("div", "crops"), { crops } = this.data;
    if (!crops) return trio;
    const sheet = Math.floor(one.index / crops.per_sheet), line = one.index % crops.per_sheet;
    for (let k = 0; k < 3; k++) {
      const part = element("div");
      part.style.backgroundImage = `url("${pictureAt(`${crops.src}${sheet}.jpg`)}")`;
      part.style.backgroundPosition = `${-Gallery.CROP_PX * k}px ${-Gallery.CROP_PX * line}px`;
      if (k === 0 && one.kind === "displaced" && one.arrow_row !== null) part.append(this.arrow(one, crops.side_px));
      trio.append(part);
    }
    trio.setAttribute("role", "img");
    trio.setAttribute("aria-label", "Input, prediction and difference");
    return trio;
  }

  /* The displacement, ten times its length. */
  arrow(one, side) {
    const svg = drawn("svg", { viewBox: "-1 -1 2 2", class: "arrow", "aria-hidden": "true" });
    const dy = (one.arrow_row * 20) / side, dx = (one.arrow_col * 20) / side;
    const angle = Math.atan2(dy, dx), head = Math.min(0.24, Math.hypot(dx, dy) * 0.5);
    const tips = [2.6, -2.6].map((turn) => `M${dx} ${dy}L${dx + head * Math.cos(angle + turn)} ${dy + head * Math.sin(angle + turn)}`);
    const path = `M0 0L${dx} ${dy}${tips.join("")}`, length = Math.hypot(dx, dy) || 1;
    const aside = `translate(${(dy / length) * 0.22} ${(-dx / length) * 0.22})`; // beside the column that it moves, not over it
    svg.append(drawn("path", { d: path, class: "dark", transform: aside }), drawn("path", { d: path, class: "light", transform: aside }));
    return svg;
  }

  pair(value, small) {
    const cell = element("td", "num");
    cell.append(value, element("small", "", small));
    return cell;
  }

  row(one, place) {
    const row = element("tr", one.index === this.viewer.here ? "row here" : "row");
    row.dataset.index = one.index;
    row.setAttribute("aria-rowindex", place + 2);
    if (one.verdict) row.classList.add(one.verdict);
    const pictures = element("td");
    pictures.append(this.crops(one));
    const kind = element("td");
    const go = element("button", "go");
    go.type = "button";
    go.append(this.mark(one.kind), one.kind_text);
    go.setAttribute("aria-label", `Go to defect: ${one.kind_text} ${one.site}, row and column ${one.place_text}${one.verdict ? `, ${VERDICTS[one.verdict].slice(2)}` : ""}`);
    kind.append(go, element("small", "", [one.site, one.real_text, one.area_text].filter(Boolean).join(" · ")), element("small", "", [one.place_text, one.kind_chance_text].filter(Boolean).join(" · ")));
    kind.title = one.kind_chance_text ? "real: that it is no false alarm; kind: that it is of this kind, if it is real" : "";
    if (one.verdict) {
      const text = one.verdict === "other" && one.other_kind ? `+ ${one.other_kind}` : VERDICTS[one.verdict];
      kind.append(element("small", `verdict ${one.verdict}`, text));
    }
    row.append(
      pictures,
      kind,
      this.pair(one.z_text, one.q_text === "–" ? "" : `q ${one.q_text}`),
      this.pair(...one.change_text),
      this.pair(...one.shift_text),
    );
    return row;
  }

  gap(height) {
    const row = element("tr", "gap"), cell = element("td");
    row.setAttribute("aria-hidden", "true");
    cell.colSpan = 5;
    cell.style.height = `${height}px`;
    row.append(cell);
    return row;
  }

  paint(force) {
    if (!this.scroller) return;
    const { scroller, order, body, printing } = this, px = Gallery.ROW_PX, spare = 5;
    const first = printing ? 0 : Math.max(0, Math.floor(scroller.scrollTop / px) - spare);
    const last = printing ? order.length : Math.min(order.length, Math.ceil((scroller.scrollTop + scroller.clientHeight) / px) + spare);
    const key = `${first} ${last} ${this.viewer.here}`;
    if (!force && key === this.painted) return;
    this.painted = key;
    const focused = document.activeElement && document.activeElement.closest("tr.row");
    const kept = focused && body.contains(focused) ? focused.dataset.index : null;
    body.replaceChildren(this.gap(first * px), ...order.slice(first, last).map((index, k) => this.row(this.all[index], first + k)), this.gap((order.length - last) * px));
    if (kept !== null) {
      const again = body.querySelector(`tr[data-index="${kept}"] .go`);
      if (again) again.focus({ preventScroll: true });
    }
  }

  /* Filter by kind, grain, site and review, and sort. */
  arrange() {
    const value = (id) => (document.getElementById(id) ? document.getElementById(id).value : "");
    const off = new Set([...document.querySelectorAll("[data-kind]")].filter((box) => !box.checked).map((box) => box.dataset.kind));
    const grain = Number(value("of-grain")), site = value("site"), review = value("reviewed"), least = Number(value("least")) || 0;
    const fits = (verdict) => !review || (review === "open" ? !verdict : review === "any" ? Boolean(verdict) : verdict === review);
    for (const one of this.all) {
      one.shown = !off.has(one.kind_text) && (!site || one.site === site) && (!grain || one.of_grains.includes(grain)) && fits(one.verdict) && (least <= 0 || one.z === null || Math.abs(one.z) >= least);
    }
    const sorted = Gallery.BY[this.sorting.key], turn = this.sorting.down ? -1 : 1;
    this.order = this.all.filter((one) => one.shown).map((one) => one.index);
    this.order.sort((a, b) => {
      const x = sorted(this.all[a]), y = sorted(this.all[b]);
      if (x === null || y === null) return (x === null) - (y === null) || a - b;
      return (x < y ? -turn : x > y ? turn : 0) || a - b;
    });
    if (this.scroller) {
      document.getElementById("defects").setAttribute("aria-rowcount", this.order.length + 1);
      document.getElementById("list-empty").hidden = this.order.length > 0;
      document.getElementById("list-count").textContent = this.order.length < this.all.length ? `${this.order.length} shown` : "";
    }
    this.paint(true);
    this.viewer.refresh();
  }

  /* Every row of the list, for a printed page; and the sheets of pictures that they show. */
  print(all) {
    this.printing = all;
    this.paint(true);
  }

  sheets() {
    const { crops } = this.data;
    return crops ? Array.from({ length: Math.ceil(this.all.length / crops.per_sheet) }, (_, k) => `${crops.src}${k}.jpg`) : [];
  }

  reveal(index) {
    if (!this.scroller) return;
    const { scroller } = this, px = Gallery.ROW_PX, top = this.order.indexOf(index) * px;
    if (top < scroller.scrollTop || top + 2 * px > scroller.scrollTop + scroller.clientHeight)
      scroller.scrollTop = Math.max(0, top - (scroller.clientHeight - px) / 2);
  }

  /* The defect before or after the chosen one, -1 where there is none. */
  beside(by) {
    const { order } = this;
    if (!order.length) return -1;
    const at = order.indexOf(this.viewer.here);
    return order[at < 0 ? (by > 0 ? 0 : order.length - 1) : (at + by + order.length) % order.length];
  }

  listen() {
    const { scroller, body } = this;
    scroller.addEventListener("scroll", () => requestAnimationFrame(() => this.paint(false)), { passive: true });
    new ResizeObserver(() => this.paint(false)).observe(scroller);
    body.addEventListener("click", (event) => {
      const row = event.target.closest("tr.row");
      if (row) this.onchoose(Number(row.dataset.index), true);
    });
    for (const head of document.querySelectorAll("#defects [data-sort]")) {
      head.addEventListener("click", () => {
        const key = head.dataset.sort;
        this.sorting.down = this.sorting.key === key ? !this.sorting.down : key === "z" || key === "shift";
        this.sorting.key = key;
        for (const other of document.querySelectorAll("#defects th")) other.removeAttribute("aria-sort");
        for (const other of document.querySelectorAll("#defects [data-sort]")) delete other.dataset.turn;
        head.closest("th").setAttribute("aria-sort", this.sorting.down ? "descending" : "ascending");
        head.dataset.turn = this.sorting.down ? "↓" : "↑";
        scroller.scrollTop = 0;
        this.arrange();
      });
    }
    for (const id of ["of-grain", "site", "reviewed", "least"]) {
      const control = document.getElementById(id);
      if (control) control.addEventListener("input", () => this.arrange());
    }
  }
}
Gallery.ROW_PX = 91;
Gallery.CROP_PX = 72;
Gallery.BY = {
  kind: (d) => d.kind_text + d.site,
  place: (d) => d.row * 1e6 + d.col,
  z: (d) => (d.z === null ? null : Math.abs(d.z)),
  change: (d) => d.change,
  shift: (d) => d.shift,
};
