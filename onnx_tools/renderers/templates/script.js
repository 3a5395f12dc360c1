"use strict";
(() => {
  const table = document.getElementById("weights");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const words = rows.map((row) => [...row.cells].filter((cell) => !cell.classList.contains("number")).map((cell) => cell.textContent).join(" ").toLowerCase());
  const key = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.key === undefined ? cell.textContent : Number(cell.dataset.key);
  };
  const compare = (a, b) => {
    const numbers = (typeof a === "number") - (typeof b === "number");  // a figure that is not known is least
    return numbers || (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true }));
  };

  const sort = (head, column) => {
    const first = head.classList.contains("number") ? "descending" : "ascending";
    const other = first === "ascending" ? "descending" : "ascending";
    const state = head.getAttribute("aria-sort");
    const next = state === null ? first : state === first ? other : null;
    for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
    const sorted = [...rows];
    if (next !== null) {
      head.setAttribute("aria-sort", next);
      const sign = next === "ascending" ? 1 : -1;
      const keys = new Map(rows.map((row) => [row, key(row, column)]));
      sorted.sort((a, b) => sign * compare(keys.get(a), keys.get(b)));
    }
    body.append(...sorted);
  };
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    button.addEventListener("click", () => sort(head, column));
    head.replaceChildren(button);
  });

  const controls = document.querySelector(".controls");
  const input = controls.querySelector("input");
  const output = controls.querySelector("output");
  const filter = () => {
    const wanted = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row, index) => {
      row.hidden = !wanted.every((word) => words[index].includes(word));
      shown += row.hidden ? 0 : 1;
    });
    output.textContent = `${shown.toLocaleString("en")} of ${rows.length.toLocaleString("en")}`;
  };
  input.addEventListener("input", filter);
  controls.hidden = rows.length < 2;
  filter();

  window.addEventListener("beforeprint", () => {
    for (const group of document.querySelectorAll("details")) group.open = true;
  });
})();
