"use strict";
/* Elements of a page and of a drawing, made in one call. */

function element(tag, name, text) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  if (text !== undefined) node.textContent = text;
  return node;
}

function drawn(tag, attributes) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

/* A picture beside the page; or held by the page itself, where it was saved as one file. */
const HELD = JSON.parse((document.getElementById("pictures") || { textContent: "{}" }).textContent);
const pictureAt = (path) => HELD[path] || path;
document.documentElement.classList.toggle("alone", Object.keys(HELD).length > 0);

/* What a person looks for: words and "phrases", in small letters. */
const wordsOf = (text) => [...text.toLowerCase().matchAll(/"([^"]+)"?|\S+/g)].map((found) => found[1] || found[0]);

/* A printed page shows everything: lists all their rows, folds what is in them. `all` is told whether to draw every row;
   `pictures` names those that only rows out of sight show: the button waits for them, the browser's own command may not. */
function printable(all, pictures = () => []) {
  let folds = [];
  const before = () => {
    all(true);
    folds.push(...document.querySelectorAll("details:not([open]):not(:has(pre))")); // settings and metadata stay folded
    for (const fold of folds) fold.open = true;
  };
  const after = () => {
    for (const fold of folds) fold.open = false;
    folds = [];
    all(false);
  };
  window.addEventListener("beforeprint", before);
  window.addEventListener("afterprint", after);
  document.getElementById("print").addEventListener("click", async () => {
    before();
    const more = pictures().map((path) => { const image = new Image(); image.src = pictureAt(path); return image; });
    await Promise.allSettled([...document.images, ...more].map((image) => image.decode()));
    window.print();
  });
}
