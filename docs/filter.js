// A search field, and a menu for each column that is named, above every table that follows <div class="filterable">.
document.querySelectorAll(".filterable").forEach((bar) => {
  const next = bar.nextElementSibling;
  const table = next.matches("table") ? next : next.querySelector("table"); // the theme wraps tables
  const heads = [...table.tHead.rows[0].cells].map((cell) => cell.textContent.trim());
  const rows = [...table.tBodies[0].rows];
  const text = (row, column) => row.cells[column].textContent.trim();
  const add = (tag, properties) => bar.appendChild(Object.assign(document.createElement(tag), properties));

  const search = add("input", { type: "search", placeholder: "filter", ariaLabel: "words that a row must have" });
  const menus = bar.dataset.select.split(",").map((name) => {
    const column = heads.indexOf(name.trim());
    const menu = add("select", { ariaLabel: name.trim() });
    const values = [...new Set(rows.map((row) => text(row, column)))].sort();
    menu.append(new Option(`${name.trim()}: all`, ""), ...values.map((value) => new Option(value)));
    return { menu, column };
  });
  const count = add("output", {});

  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/);
    rows.forEach((row) => {
      const found = words.every((word) => row.textContent.toLowerCase().includes(word));
      row.hidden = !found || menus.some(({ menu, column }) => menu.value && menu.value !== text(row, column));
    });
    count.value = `${rows.filter((row) => !row.hidden).length} of ${rows.length}`;
  };
  bar.addEventListener("input", filter);
  filter();
});
