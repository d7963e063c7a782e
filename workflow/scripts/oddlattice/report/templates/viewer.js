"use strict";
/* The viewer: layers of an image on one canvas. It draws what the page's data say and computes nothing but where on the
   screen it goes. Places are (row, col) [px]; pixel (0, 0) has its centre at (0, 0).
   Moving is cheap: the last picture is kept, shifted by whole pixels, and only what came into view is drawn. */

/* Tiles of one layer. A tile is decoded and coloured once, onto a canvas of its own, not in every frame. */
class TileLayer {
  constructor(source, changed, filter = "") {
    this.source = source;
    this.changed = changed; // called with the part of the image [row0, col0, row1, col1] that looks different now
    this.filter = filter;
    this.version = 0; // of the colours
    this.tiles = new Map(); // the order of use: the oldest first
    this.covers = new Set(source.covers); // tiles with gaps: a second picture says where
  }

  recolour(filter) {
    this.filter = filter;
    this.version++;
  }

  tile(level, i, j) {
    const key = `${level}_${i}_${j}`;
    let tile = this.tiles.get(key);
    if (tile) this.tiles.delete(key);
    else {
      tile = { image: new Image(), canvas: null, version: -1, ready: false };
      const { tile_px, rows, cols } = this.source, step = 2 ** level, side = tile_px * step;
      tile.part = [i * side, j * side, Math.min(rows, (i + 1) * side), Math.min(cols, (j + 1) * side)];
      const place = `${this.source.folder}/${key}`, parts = [tile.image];
      tile.image.src = pictureAt(`${place}.${this.source.ending}`);
      if (this.covers.has(key)) {
        tile.cover = new Image();
        tile.cover.src = pictureAt(`${place}.cover.png`);
        parts.push(tile.cover);
      }
      Promise.all(parts.map((part) => part.decode())).then(() => { tile.ready = true; this.changed(tile.part); }, () => { tile.failed = true; });
    }
    this.tiles.set(key, tile);
    while (this.tiles.size > 64) this.tiles.delete(this.tiles.keys().next().value);
    return tile;
  }

  /* The coloured picture of a tile that is there; `budget` says how many may still be made in this frame. */
  picture(tile, budget) {
    if (tile.version === this.version) return tile.canvas;
    if (tile.canvas && budget.left <= 0) { budget.short.push(tile.part); return tile.canvas; }
    budget.left--;
    const { naturalWidth: width, naturalHeight: height } = tile.image;
    if (!tile.canvas) {
      tile.canvas = document.createElement("canvas");
      tile.canvas.width = width;
      tile.canvas.height = height;
    }
    const context = tile.canvas.getContext("2d");
    context.clearRect(0, 0, width, height);
    context.filter = this.filter || "none";
    context.drawImage(tile.image, 0, 0);
    if (tile.cover) {
      context.filter = "none";
      context.globalCompositeOperation = "destination-in";
      context.drawImage(tile.cover, 0, 0);
      context.globalCompositeOperation = "source-over";
    }
    tile.version = this.version;
    return tile.canvas;
  }

  /* Draw what of the layer lies in `box` [left, top, right, bottom, canvas px]; x, y: canvas px of the image's corner,
     scale: canvas px per image px. */
  draw(context, x, y, scale, box, budget) {
    const { first, levels, rows, cols, tile_px } = this.source;
    const wanted = Math.max(first, Math.min(levels - 1, Math.floor(Math.log2(1 / scale) + 0.25)));
    const part = (level) => {
      const step = 2 ** level, side = tile_px * step;
      const j0 = Math.max(0, Math.floor((box[0] - x) / scale / side)), i0 = Math.max(0, Math.floor((box[1] - y) / scale / side));
      const j1 = Math.min(Math.ceil(cols / side), Math.ceil((box[2] - x) / scale / side));
      const i1 = Math.min(Math.ceil(rows / side), Math.ceil((box[3] - y) / scale / side));
      let all = true;
      const ready = [];
      for (let i = i0; i < i1; i++) {
        for (let j = j0; j < j1; j++) {
          const tile = this.tile(level, i, j);
          if (tile.ready) ready.push([this.picture(tile, budget), i * side, j * side, step]);
          else all = false;
        }
      }
      return [all, ready];
    };
    const [all, sharp] = part(wanted);
    const drawn = all || wanted === levels - 1 ? sharp : [...part(levels - 1)[1], ...sharp];
    context.imageSmoothingEnabled = scale < 2 || first > 0; // halved pixels are no pixels of the image: no edges to see
    context.imageSmoothingQuality = "low"; // a level is never shown below 0.84 of its size
    for (const [picture, row, col, step] of drawn) {
      const left = Math.round(x + col * scale), top = Math.round(y + row * scale);
      const right = Math.round(x + (col + picture.width * step) * scale);
      const bottom = Math.round(y + (row + picture.height * step) * scale);
      context.drawImage(picture, left, top, right - left, bottom - top);
    }
  }
}

/* Every tested column with its values, unpacked when first asked for. */
class Columns {
  constructor(data) {
    this.packed = data.columns;
    this.rows = data.rows;
    this.cols = data.cols;
  }

  unpack() {
    const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const { number, row, col, z, change, site } = this.packed;
    const at = (text, size) => Float32Array.from(new Uint16Array(bytes(text).buffer), (part) => (part * size) / 65535);
    this.row = at(row, this.rows);
    this.col = at(col, this.cols);
    this.z = new Int16Array(bytes(z).buffer);
    this.change = new Int16Array(bytes(change).buffer);
    this.site = bytes(site);
    this.side = Math.max(4, Math.sqrt((this.rows * this.cols) / Math.max(1, number)));
    this.grid = new Map();
    for (let k = 0; k < number; k++) {
      const key = this.key(this.row[k], this.col[k]);
      if (!this.grid.has(key)) this.grid.set(key, []);
      this.grid.get(key).push(k);
    }
  }

  key(row, col) {
    return Math.floor(row / this.side) * 100000 + Math.floor(col / this.side);
  }

  /* The column nearest to a place, within about half of the distance between columns; null where there is none. */
  near(row, col) {
    if (!this.packed) return null;
    if (!this.grid) this.unpack();
    let best = null, nearest = this.side * 0.75;
    for (const di of [-1, 0, 1]) {
      for (const dj of [-1, 0, 1]) {
        for (const k of this.grid.get(this.key(row + di * this.side, col + dj * this.side)) || []) {
          const away = Math.hypot(this.row[k] - row, this.col[k] - col);
          if (away < nearest) { nearest = away; best = k; }
        }
      }
    }
    return best;
  }

  /* Place (row, col) of a column [px]. */
  place(k) {
    return [this.row[k], this.col[k]];
  }

  text(k) {
    const site = this.packed.sites[this.site[k]] || "column";
    const sign = (value) => value.replace("-", "−");
    const z = this.z[k] === -32768 ? "–" : sign((this.z[k] / 100).toFixed(1));
    const change = this.change[k] === -32768 ? "–" : sign((this.change[k] / 10).toFixed(1));
    return `${site}  z ${z}  intensity ${change} %`;
  }
}

class Viewer {
  constructor(data, marks) {
    this.data = data;
    this.marks = marks; // {index, row, col, kind, radius, arrow_row, arrow_col, shown, verdict}
    this.here = -1;
    this.show = { raw: true, prediction: false, difference: false, z: false, strain: false, cells: false, mask: false, grains: false, boundaries: false, marks: true };
    this.fade = { raw: 1, prediction: 1, difference: 1, z: 1, strain: 0.7, cells: 0.8, mask: 0.8, grains: 0.8, boundaries: 1, marks: 1 };
    this.part = "exx"; // of the strain
    this.regions = []; // lists of [row, col], excluded by people
    this.lasso = null; // corners while a region is drawn
    this.drawing = false;
    this.missed = []; // {row, col}: defects that people added
    this.adding = false; // whether a click adds one
    this.stage = document.getElementById("stage");
    this.canvas = document.getElementById("view");
    this.context = this.canvas.getContext("2d", { alpha: false });
    this.back = [0, 1].map(() => document.createElement("canvas").getContext("2d", { alpha: false }));
    this.kept = null; // what the first of `back` shows: {x, y, scale, version}
    this.version = 0;
    this.dirty = [];
    const changed = (part) => { this.dirty.push(part); this.draw(); };
    this.layers = { raw: new TileLayer(data.raw, changed) };
    if (data.prediction) this.layers.prediction = new TileLayer(data.prediction, changed);
    for (const [key, source] of Object.entries(data.maps)) this.layers[key] = new TileLayer(source, changed, `url(#signed-${key})`);
    this.columns = new Columns(data);
    this.paths = Object.fromEntries(Object.entries(data.kinds).map(([key, kind]) => [key, new Path2D(kind.path)]));
    this.stamps = new Map();
    this.onpick = () => {};
    this.onregion = () => {};
    this.onadd = () => {};
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
    for (const canvas of [this.canvas, ...this.back.map((context) => context.canvas)]) {
      canvas.width = Math.max(1, Math.round(width * this.dpr));
      canvas.height = Math.max(1, Math.round(height * this.dpr));
    }
    this.kept = null;
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

  /* Corners of what is seen of the image. */
  seen() {
    const [top, left] = this.place(0, 0), [bottom, right] = this.place(this.width, this.height);
    const [r0, r1] = [top, bottom].map((r) => Math.max(-0.5, Math.min(this.data.rows - 0.5, r)));
    const [c0, c1] = [left, right].map((c) => Math.max(-0.5, Math.min(this.data.cols - 0.5, c)));
    return [[r0, c0], [r0, c1], [r1, c1], [r1, c0]];
  }

  /* Something looks different everywhere. */
  refresh() {
    this.version++;
    this.draw();
  }

  draw() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => { this.waiting = false; this.paint(); });
  }

  paint() {
    this.clamp();
    const scale = this.scale * this.dpr, { width, height } = this.canvas;
    const [x, y] = this.screen(-0.5, -0.5).map((at) => Math.round(at * this.dpr));
    const kept = this.kept, boxes = [];
    const dx = kept ? x - kept.x : 0, dy = kept ? y - kept.y : 0;
    if (!kept || kept.scale !== scale || kept.version !== this.version || Math.abs(dx) >= width || Math.abs(dy) >= height) {
      boxes.push([0, 0, width, height]);
    } else {
      if (dx || dy) {
        const [shown, spare] = this.back;
        spare.drawImage(shown.canvas, dx, dy);
        this.back = [spare, shown];
      }
      if (dx > 0) boxes.push([0, 0, dx, height]);
      if (dx < 0) boxes.push([width + dx, 0, width, height]);
      if (dy > 0) boxes.push([0, 0, width, dy]);
      if (dy < 0) boxes.push([0, height + dy, width, height]);
      for (const [r0, c0, r1, c1] of this.dirty) {
        const box = [x + c0 * scale - 1, y + r0 * scale - 1, x + c1 * scale + 1, y + r1 * scale + 1].map(Math.round);
        boxes.push([Math.max(0, box[0]), Math.max(0, box[1]), Math.min(width, box[2]), Math.min(height, box[3])]);
      }
    }
    this.dirty = [];
    this.kept = { x, y, scale, version: this.version };
    this.corner = [x / this.dpr, y / this.dpr]; // marks follow the same whole pixels
    const budget = { left: 3, short: [] };
    for (const box of boxes) if (box[2] > box[0] && box[3] > box[1]) this.paintBox(this.back[0], x, y, scale, box, budget);
    this.context.setTransform(1, 0, 0, 1, 0, 0);
    this.context.drawImage(this.back[0].canvas, 0, 0);
    this.context.setTransform(this.dpr, 0, 0, this.dpr, 0, 0);
    this.paintMissed(this.context);
    this.paintChosen(this.context);
    if (this.lasso) this.paintLasso(this.context);
    this.paintScale();
    if (budget.short.length) {
      this.dirty.push(...budget.short);
      this.draw();
    }
  }

  /* Where on the screen a place of the image was drawn. */
  at(row, col) {
    return [this.corner[0] + (col + 0.5) * this.scale, this.corner[1] + (row + 0.5) * this.scale];
  }

  paintBox(context, x, y, scale, box, budget) {
    const [left, top, right, bottom] = box, { show, fade } = this;
    context.save();
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.beginPath();
    context.rect(left, top, right - left, bottom - top);
    context.clip();
    context.fillStyle = "#0c0e11";
    context.fillRect(left, top, right - left, bottom - top);
    for (const key of ["raw", "prediction", "difference", "z"]) {
      if (!show[key] || !this.layers[key] || fade[key] <= 0) continue;
      context.globalAlpha = fade[key];
      this.layers[key].draw(context, x, y, scale, box, budget);
    }
    context.setTransform(this.dpr, 0, 0, this.dpr, 0, 0);
    const near = box.map((edge) => edge / this.dpr);
    for (const [key, paint] of [["strain", "paintStrain"], ["mask", "paintMask"], ["grains", "paintGrains"], ["cells", "paintCells"], ["boundaries", "paintBoundaries"]]) {
      context.globalAlpha = fade[key];
      if (show[key]) this[paint](context, near);
    }
    context.globalAlpha = 1;
    this.paintRegions(context);
    context.globalAlpha = fade.marks;
    if (show.marks) this.paintMarks(context, near);
    context.restore();
  }

  loop(path, corners) {
    corners.forEach(([row, col], k) => {
      const [x, y] = this.at(row, col);
      if (k) path.lineTo(x, y);
      else path.moveTo(x, y);
    });
    path.closePath();
  }

  hatched(context, dark, light) {
    const tile = document.createElement("canvas");
    tile.width = tile.height = 10;
    const brush = tile.getContext("2d");
    for (const [colour, width] of [[dark, 4], [light, 1.2]]) {
      brush.strokeStyle = colour;
      brush.lineWidth = width;
      for (const at of [-10, 0, 10]) { brush.beginPath(); brush.moveTo(at, 10); brush.lineTo(at + 10, 0); brush.stroke(); }
    }
    const pattern = context.createPattern(tile, "repeat");
    pattern.setTransform(new DOMMatrix([1, 0, 0, 1, this.corner[0] % 10, this.corner[1] % 10])); // moves with the image
    return pattern;
  }

  paintMask(context) {
    if (!this.data.outlines) return;
    const inside = new Path2D();
    for (const loop of this.data.outlines) {
      const corners = [];
      for (let k = 0; k < loop.length; k += 2) corners.push([loop[k] / 10, loop[k + 1] / 10]);
      this.loop(inside, corners);
    }
    const outside = new Path2D();
    outside.rect(...this.corner, this.data.cols * this.scale, this.data.rows * this.scale);
    outside.addPath(inside);
    context.fillStyle = this.hatched(context, "rgb(10 12 15 / 0.85)", "rgb(215 222 230 / 0.5)");
    context.fill(outside, "evenodd");
    context.strokeStyle = "rgb(225 232 240 / 0.9)";
    context.lineWidth = 1;
    context.stroke(inside);
  }

  paintGrains(context) {
    const whole = new Path2D();
    whole.rect(...this.corner, this.data.cols * this.scale, this.data.rows * this.scale);
    context.save();
    context.clip(whole);
    for (const { grain, colour, loops } of this.data.grains) {
      const path = new Path2D();
      let row = 0, col = 0, area = 0; // centre of what it covers: holes go the other way round
      for (const loop of loops) {
        const corners = [];
        for (let k = 0; k < loop.length; k += 2) corners.push([loop[k] / 10, loop[k + 1] / 10]);
        corners.forEach(([r, c], k) => {
          const [s, d] = corners[(k + 1) % corners.length], part = r * d - s * c;
          area += part;
          row += (r + s) * part / 3;
          col += (c + d) * part / 3;
        });
        this.loop(path, corners);
      }
      context.fillStyle = `${colour}2e`;
      context.fill(path, "evenodd");
      context.strokeStyle = colour;
      context.lineWidth = 2;
      context.stroke(path);
      const [x, y] = this.at(row / area, col / area);
      context.font = "600 15px sans-serif";
      context.lineWidth = 3;
      context.strokeStyle = "rgb(10 12 15 / 0.85)";
      context.strokeText(grain, x, y);
      context.fillStyle = colour;
      context.fillText(grain, x, y);
    }
    context.restore();
  }

  /* Lines where grains meet, and faults within one; a dislocation of a wall is a T. */
  paintBoundaries(context) {
    const size = this.size(), { paint } = { paint: (path, dash) => {
      for (const [width, colour] of [[5.5, "rgb(6 8 10 / 0.8)"], [2.4, this.data.kinds.boundary.colour]]) {
        context.lineWidth = width;
        context.strokeStyle = colour;
        context.setLineDash(dash);
        context.stroke(path);
      }
      context.setLineDash([]);
    } };
    context.lineJoin = "round";
    context.lineCap = "round";
    for (const { sort, lines, dislocations } of this.data.boundaries) {
      const path = new Path2D(), signs = new Path2D();
      for (const line of lines) {
        for (let k = 0; k < line.length; k += 2) path[k ? "lineTo" : "moveTo"](...this.at(line[k] / 10, line[k + 1] / 10));
      }
      for (const [row, col] of dislocations) {
        const [x, y] = this.at(row / 10, col / 10), arm = 7 * size;
        signs.moveTo(x - arm, y + arm / 2);
        signs.lineTo(x + arm, y + arm / 2);
        signs.moveTo(x, y + arm / 2);
        signs.lineTo(x, y - arm);
      }
      paint(path, { "low-angle": [9, 7], antiphase: [2, 6], "stacking fault": [2, 6], twin: [14, 5, 2, 5] }[sort] || []);
      paint(signs, []);
    }
  }

  /* Blocks of cells in the colour of one component of the strain; weak values let the image through. */
  paintStrain(context) {
    const { corners, parts } = this.data.strain, { values, limit } = parts[this.part];
    values.forEach((value, k) => {
      const signed = Math.max(-1, Math.min(1, value / limit)), path = new Path2D(), at = corners[k];
      this.loop(path, [0, 2, 4, 6].map((i) => [at[i] / 10, at[i + 1] / 10]));
      context.fillStyle = this.signedColour(signed);
      context.fill(path);
    });
  }

  /* The colour of a signed value from -1 to 1. */
  signedColour(signed) {
    const anchors = this.data.colours, last = anchors.length - 1;
    const at = Math.min(last - 1e-9, ((signed + 1) / 2) * last), k = Math.floor(at);
    const rgb = [0, 1, 2].map((c) => Math.round(255 * (anchors[k][c] + (anchors[k + 1][c] - anchors[k][c]) * (at - k))));
    return `rgb(${rgb.join(" ")} / ${Math.min(1, Math.abs(signed) * 1.6).toFixed(3)})`;
  }

  /* Show a component of the strain, and say what its colours stand for. */
  strainOf(part) {
    this.part = part;
    const { label, unit, limit } = this.data.strain.parts[part];
    document.getElementById("ramp-strain-name").textContent = label;
    document.getElementById("ramp-strain-low").textContent = `−${limit} ${unit}`;
    document.getElementById("ramp-strain-high").textContent = `+${limit} ${unit}`;
    const bar = document.getElementById("ramp-strain-bar").getContext("2d");
    bar.clearRect(0, 0, 172, 9);
    for (let k = 0; k < 172; k++) {
      bar.fillStyle = this.signedColour(k / 85.5 - 1);
      bar.fillRect(k, 0, 1, 9);
    }
    this.refresh();
  }

  paintRegions(context) {
    for (const corners of this.regions) {
      const path = new Path2D();
      this.loop(path, corners);
      context.fillStyle = this.hatched(context, "rgb(60 10 6 / 0.6)", "rgb(255 157 144 / 0.75)");
      context.fill(path);
      context.setLineDash([]);
      context.strokeStyle = "#ff9d90";
      context.lineWidth = 1.5;
      context.stroke(path);
    }
  }

  paintLasso(context) {
    context.beginPath();
    this.lasso.forEach(([row, col], k) => {
      const [x, y] = this.screen(row, col);
      if (k) context.lineTo(x, y);
      else context.moveTo(x, y);
    });
    for (const [width, colour] of [[4, "rgb(6 8 10 / 0.8)"], [2, "#ff9d90"]]) {
      context.lineWidth = width;
      context.strokeStyle = colour;
      context.stroke();
    }
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
      this.fullNodes = { rows, cols, pieces: this.pieces(rows, cols, U, V), V };
    }
    return this.fullNodes;
  }

  /* The lines of the lattice in short pieces with the box that each lies in: only those in view are drawn. */
  pieces(rows, cols, U, V) {
    const found = [], length = 12;
    const line = (number, start, stride, count) => {
      for (let first = 0; first + 1 < count; first += length) {
        const last = Math.min(first + length, count - 1), piece = { number, at: [], r0: Infinity, c0: Infinity, r1: -Infinity, c1: -Infinity };
        for (let k = first; k <= last; k++) {
          const at = start + k * stride;
          piece.at.push(at);
          piece.r0 = Math.min(piece.r0, rows[at]);
          piece.r1 = Math.max(piece.r1, rows[at]);
          piece.c0 = Math.min(piece.c0, cols[at]);
          piece.c1 = Math.max(piece.c1, cols[at]);
        }
        found.push(piece);
      }
    };
    for (let i = 0; i < U; i++) line(i, i * V, 1, V);
    for (let j = 0; j < V; j++) line(j, j, V, U);
    return found;
  }

  paintCells(context, [left, top, right, bottom]) {
    if (!this.data.nodes) return;
    const { rows, cols, pieces, V } = this.nodes();
    const spacing = Math.hypot(rows[V] - rows[0], cols[V] - cols[0]) * this.scale;
    const step = Math.max(1, 2 ** Math.ceil(Math.log2(9 / spacing)));
    context.save();
    context.beginPath();
    context.rect(...this.corner, this.data.cols * this.scale, this.data.rows * this.scale);
    context.clip();
    context.strokeStyle = step > 1 ? "rgb(120 200 255 / 0.5)" : "rgb(120 200 255 / 0.78)";
    context.lineWidth = 1;
    context.beginPath();
    const [x0, y0] = this.at(0, 0), { scale } = this;
    for (const { number, at, r0, c0, r1, c1 } of pieces) {
      if (number % step || x0 + c1 * scale < left - 2 || x0 + c0 * scale > right + 2 || y0 + r1 * scale < top - 2 || y0 + r0 * scale > bottom + 2) continue;
      context.moveTo(x0 + cols[at[0]] * scale, y0 + rows[at[0]] * scale);
      for (let k = Math.min(step, at.length - 1); ; k = Math.min(k + step, at.length - 1)) {
        context.lineTo(x0 + cols[at[k]] * scale, y0 + rows[at[k]] * scale);
        if (k === at.length - 1) break;
      }
    }
    context.stroke();
    context.restore();
  }

  size() {
    return Math.max(0.62, Math.min(1.9, this.scale * 0.9));
  }

  /* A picture of a kind's mark, made once for a size: 2,000 of them may be drawn in a frame. */
  stamp(kind, verdict, size) {
    const key = `${kind} ${verdict} ${size.toFixed(2)} ${this.dpr}`;
    if (this.stamps.has(key)) return this.stamps.get(key);
    if (this.stamps.size > 200) this.stamps.clear();
    const half = Math.ceil(15 * size) + 7;
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = 2 * half * this.dpr;
    const context = canvas.getContext("2d");
    context.scale(this.dpr, this.dpr);
    if (verdict === "rejected") context.globalAlpha = 0.45;
    this.paintMark(context, kind, half, half, size);
    context.globalAlpha = 1;
    this.paintVerdict(context, verdict, half + 9 * size + 3, half - 9 * size - 3, Math.max(0.8, Math.min(1.2, size)));
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

  /* A small sign beside a mark: a tick, a cross, a dot for another kind, an exclamation mark where people disagree. */
  paintVerdict(context, verdict, x, y, size) {
    const signs = { confirmed: "M-3.5 0L-1 3L4 -3.5", rejected: "M-3 -3L3 3M3 -3L-3 3", other: "M-3 0H3M0 -3V3", conflict: "M0 -4V1M0 3.6V4" };
    if (!signs[verdict]) return;
    const path = new Path2D(signs[verdict]);
    context.save();
    context.translate(x, y);
    context.scale(size, size);
    context.lineCap = "round";
    context.lineJoin = "round";
    for (const [width, colour] of [[5, "rgb(6 8 10 / 0.9)"], [2, "#ffffff"]]) {
      context.lineWidth = width;
      context.strokeStyle = colour;
      context.stroke(path);
    }
    context.restore();
  }

  paintMarks(context, [left, top, right, bottom]) {
    const size = this.size(), spare = 24 + 20 * size;
    for (const mark of this.marks) {
      if (!mark.shown) continue;
      const [x, y] = this.at(mark.row, mark.col);
      const arrow = mark.kind === "displaced" && mark.arrow_row !== null && this.scale > 0.9;
      const reach = spare + (mark.radius ? mark.radius * this.scale : 0) + (arrow ? 10 * Math.hypot(mark.arrow_row, mark.arrow_col) * this.scale : 0);
      if (x < left - reach || y < top - reach || x > right + reach || y > bottom + reach) continue;
      if (arrow) for (const pass of [0, 1]) this.paintArrow(context, mark, x, y, pass);
      if (mark.radius && mark.radius * this.scale > 7 * size) {
        this.paintMark(context, mark.kind, x, y, (mark.radius * this.scale) / 7);
        this.paintVerdict(context, mark.verdict, x + mark.radius * this.scale, y - mark.radius * this.scale, 1.2);
      } else {
        const { canvas, half } = this.stamp(mark.kind, mark.verdict, size);
        context.drawImage(canvas, x - half, y - half, 2 * half, 2 * half);
      }
    }
  }

  /* A ring with a plus: what a person saw and the program did not. */
  paintMissed(context) {
    const size = this.size();
    for (const { row, col } of this.missed) {
      const [x, y] = this.at(row, col), arm = 9 * size;
      for (const [width, colour] of [[4.4, "rgb(6 8 10 / 0.8)"], [1.9, "#ffffff"]]) {
        context.lineWidth = width;
        context.strokeStyle = colour;
        context.beginPath();
        context.arc(x, y, arm, 0, 2 * Math.PI);
        context.moveTo(x - arm / 2, y);
        context.lineTo(x + arm / 2, y);
        context.moveTo(x, y - arm / 2);
        context.lineTo(x, y + arm / 2);
        context.stroke();
      }
    }
  }

  paintChosen(context) {
    const chosen = this.marks[this.here];
    if (!chosen || !chosen.shown || !this.show.marks) return;
    const size = this.size(), [x, y] = this.at(chosen.row, chosen.col);
    const half = Math.max(17 * size, chosen.radius ? chosen.radius * this.scale + 8 : 0), arm = Math.min(10, half * 0.5);
    context.lineJoin = "round";
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

  paintArrow(context, mark, x, y, pass) {
    const dx = mark.arrow_col * this.scale * 10, dy = mark.arrow_row * this.scale * 10;
    const length = Math.hypot(dx, dy);
    if (length < 6) return;
    const head = Math.min(7, length * 0.5), angle = Math.atan2(dy, dx), beside = 13 * this.size();
    x += (dy / length) * beside; // beside the column that it moves, not over it
    y -= (dx / length) * beside;
    context.lineCap = "round";
    context.lineJoin = "round";
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
    if (this.scaled === this.scale) return;
    this.scaled = this.scale;
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
      this.lasso = this.drawing && pointers.size === 1 ? [this.place(...at(event))] : null;
      stage.classList.add("held");
    });
    stage.addEventListener("pointermove", (event) => {
      const now = at(event);
      const before = pointers.get(event.pointerId);
      if (!before) {
        stage.classList.toggle("over", !this.drawing && !this.adding && this.under(...now) >= 0);
        this.readOut(...now);
        return;
      }
      if (pointers.size === 2) {
        const other = [...pointers].find(([id]) => id !== event.pointerId)[1];
        const gap = (p) => Math.max(8, Math.hypot(p[0] - other[0], p[1] - other[1]));
        this.move((now[0] - before[0]) / 2, (now[1] - before[1]) / 2);
        this.zoom(gap(now) / gap(before), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
        travelled = 99;
      } else if (this.lasso) {
        const [x, y] = this.screen(...this.lasso[this.lasso.length - 1]);
        if (Math.hypot(now[0] - x, now[1] - y) < 4) return;
        if (this.lasso.length < 1500) this.lasso.push(this.place(...now));
        this.draw();
      } else {
        travelled += Math.hypot(now[0] - before[0], now[1] - before[1]);
        if (travelled > 4) this.move(now[0] - before[0], now[1] - before[1]);
      }
      pointers.set(event.pointerId, now);
      this.readOut(...now);
    });
    const release = (event) => {
      const held = pointers.delete(event.pointerId), lasso = this.lasso;
      if (!pointers.size) stage.classList.remove("held");
      this.lasso = null;
      if (lasso) {
        this.draw();
        if (event.type === "pointerup" && lasso.length > 2) this.onregion(lasso);
      } else if (held && event.type === "pointerup" && travelled <= 4) {
        if (this.adding) this.onadd(...this.place(...at(event)));
        else this.onpick(this.under(...at(event)));
      }
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
    stage.addEventListener("dblclick", (event) => { if (!this.drawing && !this.adding) this.zoom(2, ...at(event)); });
  }

  readOut(x, y) {
    const [row, col] = this.place(x, y);
    const read = document.getElementById("read");
    const r = Math.round(row), c = Math.round(col);
    read.hidden = r < 0 || c < 0 || r >= this.data.rows || c >= this.data.cols;
    if (read.hidden) return;
    const pixel = this.data.pixel_nm;
    const lengths = pixel ? `\n${(row * pixel[0]).toFixed(3)}, ${(col * pixel[1]).toFixed(3)} nm` : "";
    const column = this.columns.near(row, col);
    const values = column === null ? "" : `${this.columns.text(column)}\n`;
    read.textContent = `${values}row ${r}, col ${c}${lengths}\n${(this.scale * 100 * this.dpr).toFixed(this.scale < 0.1 ? 1 : 0)} %`;
  }

  /* Contrast of the raw image and the prediction: black and white as percentiles of the pixels, gamma, inversion. */
  tone(black, white, gamma, invert) {
    const { percentiles } = this.data.raw;
    const level = (part) => {
      const at = Math.max(0, Math.min(99.999, part)), k = Math.floor(at);
      return (percentiles[k] + (percentiles[k + 1] - percentiles[k]) * (at - k)) / 255;
    };
    const low = black > 0 ? level(black) : 0, high = white < 100 ? Math.max(level(white), low + 1 / 255) : 1;
    const plain = low <= 0 && high >= 1 && gamma === 1 && !invert;
    const table = Array.from({ length: 65 }, (_, k) => {
      const value = Math.max(0, Math.min(1, (k / 64 - low) / (high - low))) ** gamma;
      return (invert ? 1 - value : value).toFixed(4);
    }).join(" ");
    for (const channel of "rgb") document.getElementById(`tone-${channel}`).setAttribute("tableValues", table);
    for (const key of ["raw", "prediction"]) if (this.layers[key]) this.layers[key].recolour(plain ? "" : "url(#tone)");
    this.refresh();
  }

  /* Colours of a signed map: `share` of its full range takes the full colour; weak values let the image through. */
  range(key, share) {
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
    ["r", "g", "b", "a"].forEach((name, k) => document.getElementById(`signed-${key}-${name}`).setAttribute("tableValues", tables[k].trim()));
    this.layers[key].recolour(`url(#signed-${key})`);
    const source = this.data.maps[key], limit = Number((source.limit * share).toPrecision(2));
    document.getElementById(`ramp-${key}-low`).textContent = `−${limit}`;
    document.getElementById(`ramp-${key}-high`).textContent = `+${limit}`;
    const bar = document.getElementById(`ramp-${key}-bar`).getContext("2d");
    bar.clearRect(0, 0, 172, 9);
    for (let k = 0; k < 172; k++) {
      const rgb = [0, 1, 2].map((channel) => Math.round(255 * colour(k / 171, channel)));
      bar.fillStyle = `rgb(${rgb.join(" ")} / ${Math.min(1, Math.abs(k / 85.5 - 1) * 1.6)})`;
      bar.fillRect(k, 0, 1, 9);
    }
    this.refresh();
  }
}
