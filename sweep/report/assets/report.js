"use strict";

// Tables: a button in each header sorts by its column; empty cells stay last, equal ones keep their order.
for (const table of document.querySelectorAll("table.sortable")) {
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => {
    header.querySelector("button").addEventListener("click", () => {
      const isNumber = header.classList.contains("number");
      const before = header.getAttribute("aria-sort");
      const order = before ? (before === "descending" ? "ascending" : "descending") : isNumber ? "descending" : "ascending";
      headers.forEach((other) => other.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const key = (row) => row.cells[column].dataset.value;
      const compare = (a, b) => (isNumber ? Number(a) - Number(b) : a.localeCompare(b, "en", { numeric: true }));
      const rows = [...table.tBodies[0].rows];
      const full = rows.filter((row) => key(row) !== "");
      full.sort((a, b) => sign * compare(key(a), key(b)));
      table.tBodies[0].append(...full, ...rows.filter((row) => key(row) === ""));
    });
  });
}

// A link to a table within a closed part opens it.
for (const link of document.querySelectorAll('a[href^="#table-"]')) {
  link.addEventListener("click", () => {
    const part = document.getElementById(link.hash.slice(1))?.closest("details");
    if (part) part.open = true;
  });
}

// Plots: each figure lies beside its place as JSON. They are drawn one by one when all else of the page is there.
const plots = [...document.querySelectorAll(".plot")];
const settings = { responsive: true, displaylogo: false, displayModeBar: false };
const undrawn = plots.map((place) => [place, JSON.parse(document.getElementById(place.id.replace("plot-", "figure-")).textContent)]);
for (const [place, figure] of undrawn) place.style.minHeight = `${figure.layout.height}px`;
function drawPlot() {
  if (!window.Plotly) {
    const library = document.createElement("script");
    library.textContent = document.getElementById("plotly").textContent;
    document.head.append(library);
  }
  const [place, figure] = undrawn.shift();
  Plotly.newPlot(place, figure.data, figure.layout, settings);
}
const drawn = (async () => {
  await new Promise((done) => window.addEventListener("load", done));
  while (undrawn.length) {
    await new Promise((done) => setTimeout(done));
    if (undrawn.length) drawPlot();
  }
})();

// Saved plots have one width, whatever the window's.
const SAVED_WIDTH = 800;
for (const button of document.querySelectorAll("button.save")) {
  const name = button.dataset.plot;
  const place = document.getElementById(`plot-${name}`);
  const size = () => ({ width: SAVED_WIDTH, height: place.offsetHeight });
  button.addEventListener("click", async () => {
    await drawn;
    Plotly.downloadImage(place, { format: "svg", filename: name, ...size() });
  });
}

// On paper the page is narrower than on the screen.
const PRINTED_WIDTH = 660;
window.addEventListener("beforeprint", () => {
  while (undrawn.length) drawPlot();
  for (const place of plots) {
    place.style.minWidth = "0";
    Plotly.relayout(place, { autosize: false, width: PRINTED_WIDTH });
  }
});
window.addEventListener("afterprint", () => {
  for (const place of plots) Plotly.relayout(place, { autosize: true, width: null });
});
