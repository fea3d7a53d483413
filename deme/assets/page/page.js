"use strict";
// Sort a table by a column: numbers by data-key, texts by their letters; empty cells come last.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  const inOrder = [...body.rows];
  const keyOf = (row, column) => {
    const cell = row.cells[column];
    if (column === 0 || cell.classList.contains("text")) return cell.textContent.trim().toLowerCase();
    return cell.dataset.key === undefined ? null : Number(cell.dataset.key);
  };
  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      const next = { none: "ascending", ascending: "descending", descending: "none" };
      const order = next[heading.getAttribute("aria-sort") || "none"];
      headings.forEach((each) => each.removeAttribute("aria-sort"));
      const rows = [...inOrder];
      if (order !== "none") {
        heading.setAttribute("aria-sort", order);
        const sign = order === "ascending" ? 1 : -1;
        rows.sort((a, b) => {
          const [x, y] = [keyOf(a, column), keyOf(b, column)];
          if (x === null || y === null) return (x === null) - (y === null);
          return sign * (x < y ? -1 : x > y ? 1 : 0);
        });
      }
      body.append(...rows);
    });
  });
}

// Two grids of samples over each other: a slider between them, or their difference.
for (const compare of document.querySelectorAll("[data-compare]")) {
  const stage = compare.querySelector(".stage");
  const slide = compare.querySelector("[data-slide]");
  for (const select of compare.querySelectorAll("select")) {
    const image = stage.querySelector(`img[data-side="${select.dataset.side}"]`);
    const show = () => {
      const picture = document.querySelector(`[data-picture="${select.value}"]`);
      image.src = picture.src;
      image.alt = picture.alt;
    };
    select.addEventListener("change", show);
    show();
  }
  const move = () => stage.style.setProperty("--share", `${slide.value}%`);
  slide.addEventListener("input", move);
  stage.addEventListener("pointermove", (event) => {
    if (event.pointerType === "mouse" && event.buttons === 0) return;
    const box = stage.getBoundingClientRect();
    slide.value = Math.round((100 * (event.clientX - box.left)) / box.width);
    move();
  });
  for (const view of compare.querySelectorAll('input[name="view"]')) {
    view.addEventListener("change", () => {
      const isDifference = view.value === "difference";
      stage.classList.toggle("difference", isDifference);
      compare.querySelector("[data-difference]").hidden = !isDifference;
      compare.querySelector(".slide").hidden = isDifference;
    });
  }
  move();
}
