// Comfort alone: without it the page shows the same. Sorts the tables marked for it, and filters the one of all cells.
"use strict";

function sortValue(row, column) {
  const cell = row.cells[column];
  const number = cell.dataset.sort === undefined ? NaN : Number(cell.dataset.sort);
  return Number.isNaN(number) ? cell.textContent.trim() : number;
}

// Numbers before texts, empty cells last in either direction.
function compare(first, second, sign) {
  if (first === "" || second === "") return (first === "") - (second === "");
  if (typeof first !== typeof second) return typeof first === "number" ? -1 : 1;
  return sign * (typeof first === "number" ? first - second : first.localeCompare(second, "en", { numeric: true }));
}

function sortBy(table, column) {
  const headings = [...table.tHead.rows[0].cells];
  const ascending = headings[column].getAttribute("aria-sort") !== "ascending";
  headings.forEach((heading) => heading.removeAttribute("aria-sort"));
  headings[column].setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => ({ row, value: sortValue(row, column) }));
  rows.sort((a, b) => compare(a.value, b.value, ascending ? 1 : -1));
  body.append(...rows.map((entry) => entry.row));
}

function makeSortable(table) {
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    button.addEventListener("click", () => sortBy(table, column));
    heading.append(button);
  });
}

function makeFilters(table, place) {
  const headings = [...table.tHead.rows[0].cells].map((heading) => heading.textContent);
  const rows = [...table.tBodies[0].rows];
  const shown = document.createElement("output");
  const filters = ["model", "task", "length", "status"].map((name) => {
    const column = headings.indexOf(name);
    const select = document.createElement("select");
    const values = new Set(rows.map((row) => row.cells[column].textContent));
    select.append(new Option("all", ""), ...[...values].map((value) => new Option(value || "none", `=${value}`)));
    select.addEventListener("change", apply);
    const label = document.createElement("label");
    label.append(name, select);
    place.append(label);
    return { column, select };
  });
  function apply() {
    const fits = (row) => filters.every(({ column, select }) =>
      select.value === "" || select.value === `=${row.cells[column].textContent}`);
    rows.forEach((row) => { row.hidden = !fits(row); });
    const count = rows.filter((row) => !row.hidden).length;
    shown.textContent = `${count.toLocaleString("en")} of ${rows.length.toLocaleString("en")} cells`;
  }
  place.append(shown);
  apply();
}

const cells = document.querySelector("table.every");
if (cells) makeFilters(cells, document.querySelector(".filters"));
document.querySelectorAll("table.sortable").forEach(makeSortable);
