const metrics = byId("metrics");
const headings = [...metrics.tHead.rows[0].cells];

function sortRows(body, value, descending) {
  const rows = [...body.rows].map((row) => [row, value(row)]);
  // What has no value comes last, whichever way the rest is sorted.
  rows.sort(([, a], [, b]) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return descending ? b - a : a - b;
  });
  for (const [row] of rows) body.append(row);
}

headings.forEach((heading, column) => {
  heading.querySelector("button").addEventListener("click", () => {
    const descending = heading.getAttribute("aria-sort") === "ascending";
    for (const other of headings) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const read = (row) => {
      const text = row.cells[column].dataset.value;
      return text === undefined ? null : Number(text);
    };
    sortRows(metrics.tBodies[0], read, descending);
  });
});

const images = byId("maps").tBodies[0];
[...images.rows].forEach((row, number) => { row.dataset.number = number; });
const by = byId("by");
const of = byId("of");

function sortImages() {
  const read = (row) => by.value === ""
    ? Number(row.dataset.number)
    : data[Number(row.dataset.number)][Number(of.value)][Number(by.value)];
  sortRows(images, read, by.value !== "");
}

by.addEventListener("change", sortImages);
of.addEventListener("change", sortImages);
