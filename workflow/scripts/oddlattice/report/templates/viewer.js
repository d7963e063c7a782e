"use strict";
/* The viewer: tiles of an image on stacked canvases, marks on top. It draws what the page's data say and computes
   nothing but where on the screen it goes. Places are (row, col) [px]; pixel (0, 0) has its centre at (0, 0). */

class TileLayer {
  constructor(source, redraw) {
    this.source = source;
    this.redraw = redraw;
    this.tiles = new Map(); // the order of use: the oldest first
  }

  tile(level, i, j) {
    const key = `${level}_${i}_${j}`;
    let tile = this.tiles.get(key);
    if (tile) this.tiles.delete(key);
    else {
      tile = { image: new Image(), ready: false };
      tile.image.src = `${this.source.folder}/${key}.webp`;
      tile.image.decode().then(() => { tile.ready = true; this.redraw(); }, () => { tile.failed = true; });
    }
    this.tiles.set(key, tile);
    while (this.tiles.size > 96) this.tiles.delete(this.tiles.keys().next().value);
    return tile;
  }

  /* Draw the part of the layer in view; x, y: canvas px of the image's corner, scale: canvas px per image px. */
  draw(context, x, y, scale) {
    const { levels, rows, cols, tile_px } = this.source;
    const canvas = context.canvas;
    const wanted = Math.max(0, Math.min(levels - 1, Math.floor(Math.log2(1 / scale) + 0.25)));
    context.imageSmoothingEnabled = scale < 2;
    context.imageSmoothingQuality = "high";
    const part = (level) => {
      const step = 2 ** level, side = tile_px * step;
      const j0 = Math.max(0, Math.floor(-x / scale / side)), i0 = Math.max(0, Math.floor(-y / scale / side));
      const j1 = Math.min(Math.ceil(cols / side), Math.ceil((canvas.width - x) / scale / side));
      const i1 = Math.min(Math.ceil(rows / side), Math.ceil((canvas.height - y) / scale / side));
      let all = true;
      const ready = [];
      for (let i = i0; i < i1; i++) {
        for (let j = j0; j < j1; j++) {
          const tile = this.tile(level, i, j);
          if (tile.ready) ready.push([tile.image, i * side, j * side, step]);
          else all = false;
        }
      }
      return [all, ready];
    };
    const [all, sharp] = part(wanted);
    const drawn = all || wanted === levels - 1 ? sharp : [...part(levels - 1)[1], ...sharp];
    for (const [image, row, col, step] of drawn) {
      const left = Math.round(x + col * scale), top = Math.round(y + row * scale);
      const right = Math.round(x + (col + image.naturalWidth * step) * scale);
      const bottom = Math.round(y + (row + image.naturalHeight * step) * scale);
      context.drawImage(image, left, top, right - left, bottom - top);
    }
  }
}

class Viewer {
  constructor(data, marks) {
    this.data = data;
    this.marks = marks; // {index, row, col, kind, radius, arrow_row, arrow_col, shown}
    this.here = -1;
    this.map = "";
    this.show = { raw: true, marks: true, cells: false, mask: false };
    this.fade = 1;
    this.stage = document.getElementById("stage");
    this.contexts = ["raw", "map", "marks"].map((name) => document.getElementById(`layer-${name}`).getContext("2d"));
    const redraw = () => this.draw();
    this.raw = new TileLayer(data.raw, redraw);
    this.maps = Object.fromEntries(Object.entries(data.maps).map(([key, source]) => [key, new TileLayer(source, redraw)]));
    this.paths = Object.fromEntries(Object.entries(data.kinds).map(([key, kind]) => [key, new Path2D(kind.path)]));
    this.stamps = new Map();
    this.onpick = () => {};
    this.onmove = () => {};
    this.row = (data.rows - 1) / 2;
    this.col = (data.cols - 1) / 2;
    this.scale = 0; // css px per image px; 0: fit
    new ResizeObserver(() => this.resize()).observe(this.stage);
    this.resize();
    this.listen();
  }

  resize() {
    const { width, height } = this.stage.getBoundingClientRect();
    this.dpr = window.devicePixelRatio || 1;
    const fitted = this.scale === 0 || (this.fit && Math.abs(this.scale / this.fit - 1) < 1e-3);
    this.width = width;
    this.height = height;
    for (const { canvas } of this.contexts) {
      canvas.width = Math.max(1, Math.round(width * this.dpr));
      canvas.height = Math.max(1, Math.round(height * this.dpr));
    }
    this.fit = Math.max(1e-4, Math.min(width / this.data.cols, height / this.data.rows));
    if (fitted) this.scale = this.fit;
    this.paint();
  }

  clamp() {
    this.scale = Math.max(Math.min(this.fit, 1) * 0.5, Math.min(64, this.scale));
    this.row = Math.max(0, Math.min(this.data.rows - 1, this.row));
    this.col = Math.max(0, Math.min(this.data.cols - 1, this.col));
  }

  zoom(factor, x = this.width / 2, y = this.height / 2) {
    const [row, col] = this.place(x, y);
    const before = this.scale;
    this.scale *= factor;
    this.scale = Math.max(Math.min(this.fit, 1) * 0.5, Math.min(64, this.scale));
    const kept = before / this.scale;
    this.row = row + (this.row - row) * kept;
    this.col = col + (this.col - col) * kept;
    this.draw();
  }

  whole() {
    this.scale = this.fit;
    this.row = (this.data.rows - 1) / 2;
    this.col = (this.data.cols - 1) / 2;
    this.draw();
  }

  native() {
    this.scale = 1 / this.dpr;
    this.draw();
  }

  move(dx, dy) {
    this.col -= dx / this.scale;
    this.row -= dy / this.scale;
    this.draw();
  }

  /* Put a place into the middle; zoom so that about `across` px of the image are seen, unless closer already. */
  goTo(row, col, across) {
    this.row = row;
    this.col = col;
    const close = Math.min(this.width, this.height) / across;
    if (this.scale < close * 0.75 || this.scale > close * 4) this.scale = close;
    this.draw();
  }

  place(x, y) {
    return [this.row + (y - this.height / 2) / this.scale, this.col + (x - this.width / 2) / this.scale];
  }

  screen(row, col) {
    return [(col - this.col) * this.scale + this.width / 2, (row - this.row) * this.scale + this.height / 2];
  }

  draw() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => { this.waiting = false; this.paint(); });
  }

  paint() {
    this.clamp();
    const [raw, map, marks] = this.contexts;
    const scale = this.scale * this.dpr;
    const [x, y] = this.screen(-0.5, -0.5).map((at) => at * this.dpr);
    for (const context of this.contexts) {
      context.setTransform(1, 0, 0, 1, 0, 0);
      context.clearRect(0, 0, context.canvas.width, context.canvas.height);
    }
    if (this.show.raw) this.raw.draw(raw, x, y, scale);
    if (this.map) this.maps[this.map].draw(map, x, y, scale);
    marks.setTransform(this.dpr, 0, 0, this.dpr, 0, 0);
    if (this.show.mask) this.paintMask(marks);
    if (this.show.cells) this.paintCells(marks);
    if (this.show.marks) this.paintMarks(marks);
    this.paintScale();
    this.onmove();
  }

  paintMask(context) {
    if (!this.data.outlines) return;
    const inside = new Path2D();
    for (const loop of this.data.outlines) {
      for (let k = 0; k < loop.length; k += 2) {
        const [x, y] = this.screen(loop[k] / 10, loop[k + 1] / 10);
        if (k) inside.lineTo(x, y);
        else inside.moveTo(x, y);
      }
      inside.closePath();
    }
    const [left, top] = this.screen(-0.5, -0.5);
    const outside = new Path2D();
    outside.rect(left, top, this.data.cols * this.scale, this.data.rows * this.scale);
    outside.addPath(inside);
    if (!this.hatch) {
      const tile = document.createElement("canvas");
      tile.width = tile.height = 10;
      const brush = tile.getContext("2d");
      brush.strokeStyle = "rgb(10 12 15 / 0.85)";
      brush.lineWidth = 4;
      for (const at of [-10, 0, 10]) { brush.beginPath(); brush.moveTo(at, 10); brush.lineTo(at + 10, 0); brush.stroke(); }
      brush.strokeStyle = "rgb(215 222 230 / 0.5)";
      brush.lineWidth = 1.2;
      for (const at of [-10, 0, 10]) { brush.beginPath(); brush.moveTo(at, 10); brush.lineTo(at + 10, 0); brush.stroke(); }
      this.hatch = context.createPattern(tile, "repeat");
    }
    context.fillStyle = this.hatch;
    context.fill(outside, "evenodd");
    context.strokeStyle = "rgb(225 232 240 / 0.9)";
    context.lineWidth = 1;
    context.stroke(inside);
  }

  nodes() {
    if (!this.fullNodes) {
      const { u, v, row, col } = this.data.nodes;
      const across = v.length, U = u[u.length - 1] + 1, V = v[v.length - 1] + 1;
      const rows = new Float32Array(U * V), cols = new Float32Array(U * V);
      for (let a = 0; a + 1 < u.length; a++) {
        for (let b = 0; b + 1 < v.length; b++) {
          const k = a * across + b;
          for (let i = u[a]; i <= u[a + 1]; i++) {
            const s = (i - u[a]) / (u[a + 1] - u[a]);
            for (let j = v[b]; j <= v[b + 1]; j++) {
              const t = (j - v[b]) / (v[b + 1] - v[b]);
              const mix = (w) => ((1 - s) * ((1 - t) * w[k] + t * w[k + 1]) + s * ((1 - t) * w[k + across] + t * w[k + across + 1])) / 10;
              rows[i * V + j] = mix(row);
              cols[i * V + j] = mix(col);
            }
          }
        }
      }
      this.fullNodes = { rows, cols, U, V };
    }
    return this.fullNodes;
  }

  paintCells(context) {
    if (!this.data.nodes) return;
    const { rows, cols, U, V } = this.nodes();
    const spacing = Math.hypot(rows[V] - rows[0], cols[V] - cols[0]) * this.scale;
    const step = Math.max(1, 2 ** Math.ceil(Math.log2(9 / spacing)));
    const [left, top] = this.screen(-0.5, -0.5);
    context.save();
    context.beginPath();
    context.rect(left, top, this.data.cols * this.scale, this.data.rows * this.scale);
    context.clip();
    context.strokeStyle = step > 1 ? "rgb(120 200 255 / 0.4)" : "rgb(120 200 255 / 0.62)";
    context.lineWidth = 1;
    context.beginPath();
    const line = (start, stride, count) => {
      let inside = false;
      for (let k = 0; k < count; k += 1) {
        const at = start + k * stride;
        const [x, y] = this.screen(rows[at], cols[at]);
        const near = x > -80 && y > -80 && x < this.width + 80 && y < this.height + 80;
        if (near && inside) context.lineTo(x, y);
        else if (near) context.moveTo(x, y);
        inside = near;
      }
    };
    for (let i = 0; i < U; i += step) line(i * V, 1, V);
    for (let j = 0; j < V; j += step) line(j, V, U);
    context.stroke();
    context.restore();
  }

  size() {
    return Math.max(0.62, Math.min(1.9, this.scale * 0.9));
  }

  /* A picture of a kind's mark, made once for a size: 2,000 of them are drawn in every frame. */
  stamp(kind, size) {
    const key = `${kind} ${size.toFixed(2)} ${this.dpr}`;
    if (this.stamps.has(key)) return this.stamps.get(key);
    if (this.stamps.size > 60) this.stamps.clear();
    const half = Math.ceil(11 * size) + 2;
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = 2 * half * this.dpr;
    const context = canvas.getContext("2d");
    context.scale(this.dpr, this.dpr);
    this.paintMark(context, kind, half, half, size);
    this.stamps.set(key, { canvas, half });
    return this.stamps.get(key);
  }

  paintMark(context, kind, x, y, size) {
    context.lineJoin = "round";
    context.lineCap = "round";
    for (const [width, colour] of [[4.2, "rgb(6 8 10 / 0.75)"], [1.9, this.data.kinds[kind].colour]]) {
      context.save();
      context.translate(x, y);
      context.scale(size, size);
      context.lineWidth = width / size;
      context.strokeStyle = colour;
      if (kind === "extended") context.setLineDash([6 / size, 4 / size]);
      context.stroke(this.paths[kind]);
      context.restore();
    }
  }

  paintMarks(context) {
    const size = this.size();
    for (const mark of this.marks) {
      if (!mark.shown) continue;
      const [x, y] = this.screen(mark.row, mark.col);
      const reach = mark.radius ? mark.radius * this.scale : 0;
      if (x < -20 - reach || y < -20 - reach || x > this.width + 20 + reach || y > this.height + 20 + reach) continue;
      if (mark.kind === "displaced" && mark.arrow_row !== null && this.scale > 0.9) {
        for (const pass of [0, 1]) this.paintArrow(context, mark, x, y, pass);
      }
      if (reach > 7 * size) this.paintMark(context, mark.kind, x, y, reach / 7);
      else {
        const { canvas, half } = this.stamp(mark.kind, size);
        context.drawImage(canvas, x - half, y - half, 2 * half, 2 * half);
      }
    }
    context.lineJoin = "round";
    const chosen = this.marks[this.here];
    if (chosen && chosen.shown) {
      const [x, y] = this.screen(chosen.row, chosen.col);
      const half = Math.max(17 * size, chosen.radius ? chosen.radius * this.scale + 8 : 0), arm = Math.min(10, half * 0.5);
      for (const [width, colour] of [[4.5, "rgb(6 8 10 / 0.8)"], [2, "#ffffff"]]) {
        context.lineWidth = width;
        context.strokeStyle = colour;
        context.beginPath();
        for (const [a, b] of [[-1, -1], [1, -1], [1, 1], [-1, 1]]) {
          context.moveTo(x + a * half, y + b * (half - arm));
          context.lineTo(x + a * half, y + b * half);
          context.lineTo(x + a * (half - arm), y + b * half);
        }
        context.stroke();
      }
    }
  }

  paintArrow(context, mark, x, y, pass) {
    const dx = mark.arrow_col * this.scale * 10, dy = mark.arrow_row * this.scale * 10;
    const length = Math.hypot(dx, dy);
    if (length < 6) return;
    const head = Math.min(7, length * 0.5), angle = Math.atan2(dy, dx);
    context.lineWidth = pass ? 1.7 : 3.8;
    context.strokeStyle = pass ? this.data.kinds[mark.kind].colour : "rgb(6 8 10 / 0.75)";
    context.beginPath();
    context.moveTo(x, y);
    context.lineTo(x + dx, y + dy);
    for (const turn of [2.6, -2.6]) {
      context.moveTo(x + dx, y + dy);
      context.lineTo(x + dx + head * Math.cos(angle + turn), y + dy + head * Math.sin(angle + turn));
    }
    context.stroke();
  }

  paintScale() {
    const pixel = this.data.pixel_nm ? this.data.pixel_nm[1] : 1;
    const wanted = (150 / this.scale) * pixel;
    const power = 10 ** Math.floor(Math.log10(wanted));
    const length = power * [5, 2, 1].find((n) => n * power <= wanted);
    const box = document.getElementById("scale");
    const [unit, factor] = !this.data.pixel_nm ? ["px", 1] : length < 0.1 ? ["pm", 1000] : length >= 1000 ? ["µm", 0.001] : ["nm", 1];
    box.firstElementChild.textContent = `${Number((length * factor).toPrecision(3))} ${unit}`;
    box.lastElementChild.style.width = `${(length / pixel) * this.scale}px`;
  }

  /* The nearest shown mark within reach of a screen place, or -1. */
  under(x, y) {
    if (!this.show.marks) return -1;
    let best = -1, nearest = 13 * Math.max(1, this.size());
    for (const mark of this.marks) {
      if (!mark.shown) continue;
      const [mx, my] = this.screen(mark.row, mark.col);
      const away = Math.hypot(mx - x, my - y);
      if (away < nearest) { nearest = away; best = mark.index; }
    }
    return best;
  }

  listen() {
    const stage = this.stage, pointers = new Map();
    const at = (event) => {
      const box = stage.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    let travelled = 0;
    stage.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      stage.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, at(event));
      if (pointers.size === 1) travelled = 0;
      stage.classList.add("held");
    });
    stage.addEventListener("pointermove", (event) => {
      const now = at(event);
      const before = pointers.get(event.pointerId);
      if (!before) {
        stage.classList.toggle("over", this.under(...now) >= 0);
        this.readOut(...now);
        return;
      }
      if (pointers.size === 2) {
        const other = [...pointers].find(([id]) => id !== event.pointerId)[1];
        const gap = (p) => Math.max(8, Math.hypot(p[0] - other[0], p[1] - other[1]));
        this.move((now[0] - before[0]) / 2, (now[1] - before[1]) / 2);
        this.zoom(gap(now) / gap(before), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
        travelled = 99;
      } else {
        travelled += Math.hypot(now[0] - before[0], now[1] - before[1]);
        if (travelled > 4) this.move(now[0] - before[0], now[1] - before[1]);
      }
      pointers.set(event.pointerId, now);
      this.readOut(...now);
    });
    const release = (event) => {
      const held = pointers.delete(event.pointerId);
      if (!pointers.size) stage.classList.remove("held");
      if (held && event.type === "pointerup" && travelled <= 4) this.onpick(this.under(...at(event)));
    };
    stage.addEventListener("pointerup", release);
    stage.addEventListener("pointercancel", release);
    stage.addEventListener("pointerleave", () => { document.getElementById("read").hidden = true; });
    stage.addEventListener("wheel", (event) => {
      event.preventDefault();
      const lines = event.deltaMode === 1 ? 18 : 1;
      this.zoom(Math.exp(-Math.max(-240, Math.min(240, event.deltaY * lines)) * 0.0018), ...at(event));
      this.readOut(...at(event));
    }, { passive: false });
    stage.addEventListener("dblclick", (event) => this.zoom(2, ...at(event)));
  }

  readOut(x, y) {
    const [row, col] = this.place(x, y);
    const read = document.getElementById("read");
    const r = Math.round(row), c = Math.round(col);
    read.hidden = r < 0 || c < 0 || r >= this.data.rows || c >= this.data.cols;
    if (read.hidden) return;
    const pixel = this.data.pixel_nm;
    const lengths = pixel ? `\n${(row * pixel[0]).toFixed(3)}, ${(col * pixel[1]).toFixed(3)} nm` : "";
    read.textContent = `row ${r}, col ${c}${lengths}\n${(this.scale * 100 * this.dpr).toFixed(this.scale < 0.1 ? 1 : 0)} %`;
  }

  /* Contrast of the raw image: black and white as percentiles of its pixels, gamma, inversion. */
  tone(black, white, gamma, invert) {
    const { percentiles } = this.data.raw;
    const level = (p) => {
      const at = Math.min(99.999, Math.max(0, p)), k = Math.floor(at);
      return (percentiles[k] + (percentiles[k + 1] - percentiles[k]) * (at - k)) / 255;
    };
    const low = black > 0 ? level(black) : 0, high = white < 100 ? Math.max(level(white), low + 1 / 255) : 1;
    const plain = low <= 0 && high >= 1 && gamma === 1 && !invert;
    const table = Array.from({ length: 65 }, (_, k) => {
      const value = Math.max(0, Math.min(1, (k / 64 - low) / (high - low))) ** gamma;
      return (invert ? 1 - value : value).toFixed(4);
    }).join(" ");
    for (const channel of "rgb") document.getElementById(`tone-${channel}`).setAttribute("tableValues", table);
    this.contexts[0].canvas.style.filter = plain ? "" : "url(#tone)";
  }

  /* Show a signed map: `share` of its full range takes the full colour; weak values let the image through. */
  setMap(key, share, fade) {
    this.map = key;
    const canvas = this.contexts[1].canvas;
    const anchors = this.data.colours, last = anchors.length - 1;
    const colour = (place, channel) => {
      const at = Math.max(0, Math.min(last - 1e-9, place * last)), k = Math.floor(at);
      return anchors[k][channel] + (anchors[k + 1][channel] - anchors[k][channel]) * (at - k);
    };
    const size = 65, tables = ["", "", "", ""];
    for (let k = 0; k < size; k++) {
      const signed = Math.max(-1, Math.min(1, ((k / (size - 1)) * 255 - 128) / 127 / share));
      for (let channel = 0; channel < 3; channel++) tables[channel] += `${colour((signed + 1) / 2, channel).toFixed(3)} `;
      tables[3] += `${Math.min(1, Math.abs(signed) * 1.6).toFixed(3)} `;
    }
    ["r", "g", "b"].forEach((name, k) => document.getElementById(`signed-${name}`).setAttribute("tableValues", tables[k].trim()));
    document.getElementById("signed-a").setAttribute("tableValues", tables[3].trim());
    canvas.style.filter = key ? "url(#signed)" : "";
    canvas.style.opacity = fade;
    const ramp = document.getElementById("ramp");
    ramp.hidden = !key;
    if (key) {
      const source = this.data.maps[key], limit = Number((source.limit * share).toPrecision(2));
      document.getElementById("ramp-name").textContent = key === "z" ? "z" : "Input − prediction, local mean = 1";
      document.getElementById("ramp-low").textContent = `−${limit}`;
      document.getElementById("ramp-high").textContent = `+${limit}`;
      const bar = document.getElementById("ramp-bar").getContext("2d");
      for (let k = 0; k < 172; k++) {
        const rgb = [0, 1, 2].map((channel) => Math.round(255 * colour(k / 171, channel)));
        bar.fillStyle = `rgb(${rgb.join(" ")} / ${Math.min(1, Math.abs(k / 85.5 - 1) * 1.6)})`;
        bar.clearRect(k, 0, 1, 9);
        bar.fillRect(k, 0, 1, 9);
      }
    }
    this.draw();
  }
}
