"use strict";
const one = (selector, from = document) => from.querySelector(selector);
const all = (selector, from = document) => [...from.querySelectorAll(selector)];
const percent = (share) => (100 * share).toFixed(1);

// Sorting: a header becomes a button only where a script can answer it.
for (const table of all("table.sortable")) {
  const headers = all("thead th", table);
  headers.forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      const first = header.classList.contains("score") ? "descending" : "ascending";
      const other = first === "ascending" ? "descending" : "ascending";
      const order = header.getAttribute("aria-sort") === first ? other : first;
      headers.forEach((each) => each.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const key = (row) => row.cells[column].dataset.value;
      const compare = new Intl.Collator("en", { numeric: true }).compare;
      const byNumber = (a, b) => Number(key(a)) - Number(key(b));
      const byText = (a, b) => compare(key(a), key(b));
      const rows = all("tbody tr", table);
      const numeric = rows.every((row) => key(row) !== "" && !Number.isNaN(Number(key(row))));
      rows.sort((a, b) => sign * (numeric ? byNumber : byText)(a, b));
      one("tbody", table).append(...rows);
    });
  });
}

// Choosing a row: the figures stand already, only their numbers and places change.
const rows = JSON.parse(one("#rows").textContent);

function showDots(kind, scores, mean) {
  const svg = one(`svg.dots[data-kind="${kind}"]`);
  if (!svg) return;
  const left = Number(svg.dataset.left);
  const place = (score) => (left + (Number(svg.dataset.right) - left) * score).toFixed(1);
  const known = scores.filter((score) => score !== null);
  const lowest = Math.min(...known);
  const apart = Math.max(...known) - lowest > 1e-9;  // equal shares can be summed in another order
  for (const dot of all("[data-dot]", svg)) {
    const score = scores[dot.dataset.dot];
    const x = place(score ?? 0);
    const y = one("line", dot).getAttribute("y1");
    one("line", dot).setAttribute("x2", x);
    one(".head", dot).setAttribute("transform", `translate(${x} ${y})`);
    dot.lastElementChild.textContent = score === null ? "none" : percent(score);
    dot.classList.toggle("absent", score === null);
    dot.classList.toggle("lowest", score !== null && apart && score - lowest < 1e-9);
    dot.classList.toggle("flip", score > 0.5);
  }
  one(".mean", svg).setAttribute("transform", `translate(${place(mean)} 0)`);
  one(".mean text", svg).textContent = `all ${percent(mean)}`;
  svg.setAttribute("aria-label", `${kind}, in per cent; over all ${percent(mean)}.`);
}

function showRow(row) {
  one("#chosen-row").textContent = row.sentence;
  for (const text of all(".row-title")) text.textContent = row.short;
  for (const cell of all("svg.confusion [data-cell]")) {
    const [i, j] = cell.dataset.cell.split(",").map(Number);
    const total = row.confusion[i].reduce((sum, count) => sum + count, 0);
    const count = row.confusion[i][j];
    const share = total ? count / total : 0;
    const [inPercent, counted] = all("text", cell);
    inPercent.textContent = percent(share);
    counted.textContent = count;
    one("rect", cell).setAttribute("fill-opacity", share.toFixed(3));
    one("title", cell).textContent = one("title", cell).textContent.replace(/: [^:]*$/, `: ${count} (${percent(share)} %)`);
    cell.classList.toggle("strong", share > 0.5);
    cell.classList.toggle("none", count === 0);
  }
  one("svg.confusion").setAttribute("aria-label", `Confusion matrix of ${row.short}, in per cent of each true label, with counts.`);
  showDots("recall", row.recall, row.mean);
  showDots("speakers", row.speakers, row.mean);
  showDots("sexes", row.sexes, row.mean);
  showReliability(row);
}

function showReliability(row) {
  const svg = one("svg.reliability");
  if (!svg) return;
  const [left, right, top, bottom, below] = svg.dataset.frame.split(",").map(Number);
  const bins = row.calibration ?? [];
  const most = Math.max(1, ...bins.map(([count]) => count));
  for (const bin of all("[data-bin]", svg)) {
    const [count, confidence, accuracy] = bins[bin.dataset.bin] ?? [0, 0, 0];
    const heights = { bar: [bottom, (bottom - top) * accuracy], count: [below, (count / most) * (below - bottom - 12)] };
    for (const [name, [foot, height]] of Object.entries(heights)) {
      one(`.${name}`, bin).setAttribute("y", (foot - height).toFixed(1));
      one(`.${name}`, bin).setAttribute("height", height.toFixed(1));
    }
    const place = [left + (right - left) * confidence, bottom - heights.bar[1]].map((x) => x.toFixed(1));
    one(".sure", bin).setAttribute("transform", `translate(${place.join(" ")})`);
    one("title", bin).textContent = `${count} predictions: ${percent(confidence)} % sure, ${percent(accuracy)} % right`;
    bin.classList.toggle("absent", count === 0);
  }
  one(".ece", svg).textContent = row.reliability;
  svg.setAttribute("aria-label", `Reliability of ${row.short}: ${row.reliability}.`);
}

const choice = one("#choice");
one(".choose").hidden = false;
choice.addEventListener("change", () => showRow(rows[choice.value]));
// A browser that comes back to the page restores the choice without telling.
if (!choice.selectedOptions[0].defaultSelected) showRow(rows[choice.value]);

// One colouring at a time; without this script all of them stand there.
const colours = one("#colours");
if (colours) {
  const showColour = () => {
    const chosen = one("input:checked", colours).value;
    for (const figure of all("#map figure")) figure.hidden = figure.dataset.name !== chosen;
  };
  colours.hidden = false;
  colours.addEventListener("change", showColour);
  showColour();
}

// Saving a figure: other programs know neither this page's classes nor its variables, so each element takes its looks along.
const INHERITED = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "stroke-linejoin", "paint-order",
  "text-anchor", "font-family", "font-size", "font-weight"];

function looks(element, isRoot) {
  const style = getComputedStyle(element);
  const around = getComputedStyle(element.parentElement);
  const inherited = INHERITED.filter((name) => isRoot || style.getPropertyValue(name) !== around.getPropertyValue(name));
  const own = [style.opacity === "1" ? [] : "opacity", style.display === "none" ? "display" : []].flat();
  return [...inherited, ...own].map((name) => `${name}:${style.getPropertyValue(name)}`).join(";");
}

function drawn(svg) {
  document.documentElement.dataset.export = "";
  const copy = svg.cloneNode(true);
  const sources = [svg, ...all("*", svg)];
  [copy, ...all("*", copy)].forEach((element, i) => {
    const source = sources[i];
    element.removeAttribute("class");
    element.setAttribute("style", looks(source, source === svg));
    if (source.classList.contains("low")) {
      const moved = new DOMMatrix(getComputedStyle(source).transform);
      element.setAttribute("transform", `translate(${moved.e} ${moved.f})`);
    }
  });
  delete document.documentElement.dataset.export;
  const { width, height } = svg.viewBox.baseVal;
  copy.setAttribute("width", width);
  copy.setAttribute("height", height);
  const paper = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  for (const [name, value] of Object.entries({ width, height, fill: "#ffffff" })) paper.setAttribute(name, value);
  copy.prepend(paper);
  return { text: new XMLSerializer().serializeToString(copy), width, height };
}

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

const savers = {
  SVG(svg, name) {
    save(new Blob([drawn(svg).text], { type: "image/svg+xml" }), `${name}.svg`);
  },
  PNG(svg, name) {
    const { text, width, height } = drawn(svg);
    const image = new Image();
    image.onload = () => {
      const canvas = document.createElement("canvas");
      [canvas.width, canvas.height] = [width * 4, height * 4];
      canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
      canvas.toBlob((blob) => save(blob, `${name}.png`), "image/png");
    };
    image.src = URL.createObjectURL(new Blob([text], { type: "image/svg+xml" }));
  },
};

for (const figure of all("figure[data-name]")) {
  for (const [kind, saver] of Object.entries(savers)) {
    const button = document.createElement("button");
    Object.assign(button, { type: "button", className: "save", textContent: `Save ${kind}` });
    button.setAttribute("aria-label", `Save ${figure.dataset.name} as ${kind}`);
    button.addEventListener("click", () => saver(one("svg", figure), figure.dataset.name));
    figure.append(button);
  }
}
