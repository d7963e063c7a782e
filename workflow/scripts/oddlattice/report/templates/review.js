"use strict";
/* What a person says of images and defects: kept in this browser, exported as one small file for the next run.
   Nothing is ever sent anywhere. Each image has one entry in the browser's storage, with what every person said. */

class Reviews {
  /* `home` is the address of the report: what is exported from a page is what was said of images of this report. */
  constructor(home) {
    this.home = home;
    this.memory = new Map();
    this.lasting = true; // whether the browser keeps it
    this.onchange = () => {};
    window.addEventListener("storage", (event) => { if (!event.key || event.key.startsWith(Reviews.PREFIX)) this.onchange(); });
  }

  get(key) {
    try {
      return window.localStorage.getItem(key);
    } catch {
      this.lasting = false;
      return this.memory.has(key) ? this.memory.get(key) : null;
    }
  }

  set(key, text) {
    try {
      window.localStorage.setItem(key, text);
    } catch {
      this.lasting = false;
      this.memory.set(key, text);
    }
  }

  keys() {
    try {
      return Object.keys(window.localStorage);
    } catch {
      return [...this.memory.keys()];
    }
  }

  get reviewer() { return this.get("oddlattice.reviewer") || ""; }
  set reviewer(name) { this.set("oddlattice.reviewer", name); this.onchange(); }

  /* {image_id, path, home, people: {name: {defects: {key: mark}, regions: {id: region}, unusable, note}}} */
  of(image) {
    let found = null;
    try {
      found = JSON.parse(this.get(Reviews.PREFIX + image) || "null");
    } catch { /* not ours: begin anew */ }
    if (!found || typeof found !== "object" || !found.people) found = { image_id: image, path: "", home: this.home, exported: "", people: {} };
    found.people = Object.assign(Object.create(null), found.people); // a person may be called anything
    for (const person of Object.values(found.people)) {
      for (const part of ["defects", "regions", "missed"]) person[part] = person[part] || {};
      person.defects = Object.fromEntries(Object.values(person.defects).map((mark) => [Reviews.key(mark), mark])); // older versions counted cells
    }
    return found;
  }

  mine(image) {
    return this.of(image).people[this.reviewer] || Reviews.blank();
  }

  /* Change what the present reviewer says of an image: `alter` gets the entry and the time. */
  say(image, path, scan, alter) {
    const all = this.of(image), at = new Date().toISOString();
    all.path = path;
    all.scan_id = scan;
    all.home = this.home;
    const mine = all.people[this.reviewer] || (all.people[this.reviewer] = Reviews.blank());
    alter(mine, at);
    this.set(Reviews.PREFIX + image, JSON.stringify(all));
    this.onchange();
  }

  images(wanted) {
    return this.keys().filter((key) => key.startsWith(Reviews.PREFIX)).map((key) => this.of(key.slice(Reviews.PREFIX.length))).filter(wanted);
  }

  static blank() {
    return { defects: {}, regions: {}, missed: {} };
  }

  static times(person) {
    const parts = [...Object.values(person.defects), ...Object.values(person.regions), ...Object.values(person.missed), person.unusable, person.looked, person.note];
    return parts.filter(Boolean).map((part) => part.at);
  }

  /* How many statements there are on images, how many of them have not been exported. */
  count(images) {
    let all = 0, fresh = 0;
    for (const image of images) {
      for (const person of Object.values(image.people)) {
        const times = Reviews.times(person);
        all += times.length;
        fresh += times.filter((at) => at > (image.exported || "")).length;
      }
    }
    return { all, fresh, images: images.filter((image) => Object.values(image.people).some((person) => Reviews.times(person).length)).length };
  }

  static content(images) {
    const reviews = [];
    for (const image of images) {
      for (const [reviewer, person] of Object.entries(image.people)) {
        const one = { reviewer, image_id: image.image_id, path: image.path };
        if (image.scan_id) one.scan_id = image.scan_id;
        const head = Object.keys(one).length;
        if (Object.keys(person.defects).length) one.defects = Object.values(person.defects);
        if (Object.keys(person.regions).length) one.regions = Object.values(person.regions);
        if (Object.keys(person.missed).length) one.missed = Object.values(person.missed);
        for (const part of ["unusable", "looked", "note"]) if (person[part]) one[part] = person[part];
        if (Object.keys(one).length > head) reviews.push(one);
      }
    }
    return { format: "oddlattice-review-1", reviews };
  }

  /* Save a file with what was said of images. */
  save(images) {
    const at = new Date().toISOString(), plain = this.reviewer.normalize("NFKD").toLowerCase().replace(/[^a-z0-9]+/g, "-");
    const link = document.createElement("a");
    const address = URL.createObjectURL(new Blob([JSON.stringify(Reviews.content(images), null, 1), "\n"], { type: "application/json" }));
    link.href = address;
    link.download = `review-${[plain.replace(/^-|-$/g, ""), at.slice(0, 19).replace(/[-:]/g, "").replace("T", "-")].filter(Boolean).join("-")}.json`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(address), 10000);
    for (const image of images) {
      const now = this.of(image.image_id);
      now.exported = at;
      this.set(Reviews.PREFIX + image.image_id, JSON.stringify(now));
    }
    this.onchange();
    return link.download;
  }

  /* Take in a review file that was exported elsewhere: of what one person said of one thing the latest stays.
     Every value is checked: the file may come from anywhere. Returns the number of images, or throws. */
  take(text, known) {
    const content = JSON.parse(text);
    if (!content || content.format !== "oddlattice-review-1" || !Array.isArray(content.reviews)) throw new Error("no review");
    const string = (value, most) => (typeof value === "string" ? value.slice(0, most) : "");
    const number = (value) => { if (!Number.isFinite(value)) throw new Error("a place is no number"); return value; };
    const time = (value) => { if (!/^\d{4}-\d\d-\d\dT[\d:.]{8,15}Z$/.test(value)) throw new Error("a time is none"); return value; };
    const later = (now, before) => (!before || now.at >= before.at ? now : before);
    const taken = [];
    for (const review of content.reviews) {
      if (!known.has(review.image_id)) continue;
      const who = string(review.reviewer, 100).trim(), person = Reviews.blank();
      if (!who) throw new Error("a reviewer has no name");
      for (const mark of review.defects || []) {
        if (!["confirmed", "rejected", "other", "none"].includes(mark.verdict)) throw new Error("a verdict is none");
        const one = { verdict: mark.verdict, kind: string(mark.kind, 40), found_kind: string(mark.found_kind, 40), site: string(mark.site, 40), note: string(mark.note, 4000) };
        for (const key of ["cell_u", "cell_v"]) one[key] = Number.isInteger(mark[key]) ? mark[key] : null;
        for (const key of ["row_px", "col_px"]) one[key] = number(mark[key]);
        one.at = time(mark.at);
        person.defects[Reviews.key(one)] = later(one, person.defects[Reviews.key(one)]);
      }
      for (const region of review.regions || []) {
        const corners = region.corners_px.slice(0, 2000).map(([row, col]) => [number(row), number(col)]);
        person.regions[string(region.id, 80)] = { id: string(region.id, 80), corners_px: corners, withdrawn: Boolean(region.withdrawn), at: time(region.at) };
      }
      for (const mark of review.missed || []) {
        const one = { id: string(mark.id, 80), kind: string(mark.kind, 40), note: string(mark.note, 4000), withdrawn: Boolean(mark.withdrawn), at: time(mark.at) };
        for (const key of ["row_px", "col_px"]) one[key] = number(mark[key]);
        person.missed[one.id] = one;
      }
      for (const part of ["unusable", "looked"]) if (review[part]) person[part] = { is: Boolean(review[part].is), at: time(review[part].at) };
      if (review.note) person.note = { text: string(review.note.text, 4000), at: time(review.note.at) };
      taken.push([review.image_id, string(review.path, 8000), string(review.scan_id, 64), who, person]);
    }
    for (const [image, path, scan, who, person] of taken) {
      const all = this.of(image), mine = all.people[who] || Reviews.blank();
      for (const part of ["defects", "regions", "missed"]) for (const [key, one] of Object.entries(person[part])) mine[part][key] = later(one, mine[part][key]);
      for (const part of ["unusable", "looked", "note"]) if (person[part]) mine[part] = later(person[part], mine[part]);
      all.people[who] = mine;
      all.path = path;
      if (scan) all.scan_id = scan;
      all.home = this.home;
      this.set(Reviews.PREFIX + image, JSON.stringify(all));
    }
    this.onchange();
    return new Set(taken.map(([image]) => image)).size;
  }

  /* What a mark is about: its class and its place, the same for a defect and for what was said of it. */
  static key({ found_kind, row_px, col_px }) {
    return `${Reviews.classOf(found_kind)} ${row_px.toFixed(1)} ${col_px.toFixed(1)}`;
  }

  /* What a defect is, whatever its kind is called: the same rule as in reviews.py. */
  static classOf(kind) {
    return { extended: "region", extra: "extra", boundary: "boundary" }[kind] || "column";
  }

  /* The address of a defect within its page: its class and its place, which outlive a run; and back. */
  static link(about) {
    return new URLSearchParams({ at: `${Reviews.classOf(about.found_kind)}:${about.row_px.toFixed(2)}:${about.col_px.toFixed(2)}` }).toString();
  }

  static linked(text) {
    const [name, row, col] = (text || "").split(":");
    return Number.isFinite(Number(row)) && Number.isFinite(Number(col)) && col ? { name, row: Number(row), col: Number(col) } : null;
  }

  /* Key of what a person said of a thing: at its very place, or the nearest of its class within reach, as a run before
     this one saw it elsewhere. */
  static find(marks, about, reach) {
    const key = Reviews.key(about);
    if (marks[key]) return key;
    let best = key, nearest = reach;
    for (const [other, mark] of Object.entries(marks)) {
      const away = Math.hypot(mark.row_px - about.row_px, mark.col_px - about.col_px);
      if (away <= nearest && Reviews.classOf(mark.found_kind) === Reviews.classOf(about.found_kind)) [best, nearest] = [other, away];
    }
    return best;
  }

  /* What people say of one thing, as the pipeline counts it: the same rule as in reviews.py. */
  static verdict(marks) {
    const says = new Set(marks.filter((m) => m.verdict !== "none").map((m) => `${m.verdict} ${m.verdict === "other" ? m.kind : ""}`));
    if (says.size > 1) return { verdict: "conflict", kind: "" };
    const one = marks.find((m) => m.verdict !== "none");
    return one ? { verdict: one.verdict, kind: one.verdict === "other" ? one.kind : "" } : { verdict: "", kind: "" };
  }
}
Reviews.PREFIX = "oddlattice.review:";
