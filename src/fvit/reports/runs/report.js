// Sorts and filters the tables, draws the learning curves of the visible rows, and compares two configs.
const content = (id) => JSON.parse(document.getElementById(`data-${id}`).textContent);
const rowsOf = (table) => [...table.tBodies[0].rows];

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button")?.addEventListener("click", () => {
    const text = head.classList.contains("text");
    const before = head.getAttribute("aria-sort");
    // Numbers start with the largest on top.
    const down = before === "none" ? !text : before === "ascending";
    heads.forEach((other) => other.hasAttribute("aria-sort") && other.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => row.cells[column].dataset.v ?? "";
    const order = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      const difference = isNaN(x) || isNaN(y) ? x.localeCompare(y, "en", { numeric: true }) : x - y;
      return down ? -difference : difference;
    };
    table.tBodies[0].append(...rowsOf(table).sort(order));
    table.dispatchEvent(new Event("shown"));
  }));
}

const shownTable = (board) => document.querySelector(`[data-board="${board}"]:not([hidden]) table`);

for (const box of document.querySelectorAll("input[data-filter]")) {
  const board = box.dataset.filter;
  const tables = [...document.querySelectorAll(`[data-board="${board}"] table`)];
  const count = document.querySelector(`[data-count="${board}"]`);
  // `lr=0.001` matches a value as written on the command line, also where the row does not repeat what most have.
  const texts = new Map(tables.flatMap((table) => {
    const heads = [...table.tHead.rows[0].cells].map((cell) => cell.textContent.trim());
    return rowsOf(table).map((row) => [row, [...row.cells].map((cell, i) =>
      `${cell.textContent} ${heads[i]}=${cell.textContent} ${cell.dataset.v ?? ""}`).join(" ").toLowerCase()]);
  }));
  const filter = () => {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const [row, text] of texts) row.hidden = !words.every((word) => text.includes(word));
    const rows = rowsOf(shownTable(board)), shown = rows.filter((row) => !row.hidden).length;
    count.textContent = words.length ? `${shown} of ${rows.length} rows` : `${rows.length} rows`;
    shownTable(board).dispatchEvent(new Event("shown"));
  };
  box.addEventListener("input", filter);
  filter();
}

const MAX_CURVES = 8;
const learning = content("curves");

function drawCurves(board, number) {
  const metric = document.querySelector(`input[name=curve-${number}]:checked`).value;
  const rows = rowsOf(shownTable(`board-${number}`)).filter((row) => !row.hidden).map((row) => +row.dataset.row);
  const having = rows.filter((row) => board.curves[metric][row]);
  const shown = having.slice(0, MAX_CURVES);
  // Settings that all curves share are left out of their names.
  const words = shown.map((row) => board.rows[row].name.split(" "));
  const differs = (word, i) => i === 0 || !words.every((others) => others.includes(word));
  const data = shown.flatMap((row, place) => {
    const { x, y, n, low, high } = board.curves[metric][row];
    const { colour, dash } = board.rows[row];
    const name = words[place].filter(differs).join(" ");
    const line = { type: "scatter", mode: x.length > 1 ? "lines" : "markers", name, x, y, legendgroup: row,
      line: { color: colour, dash, width: 2 }, marker: { color: colour }, hovertemplate: `%{y:.4~g} (${n})` };
    if (!low) return [line];
    const band = { type: "scatter", mode: "lines", x: [...x, ...[...x].reverse()], y: [...high, ...[...low].reverse()], fill: "toself",
      fillcolor: colour + "26", line: { color: colour, width: 0 }, hoverinfo: "skip", showlegend: false, legendgroup: row };
    return [band, line];
  });
  const missing = rows.length - having.length;
  document.getElementById(`curves-note-${number}`).textContent =
    (having.length > MAX_CURVES ? `The first ${MAX_CURVES} of ${having.length} rows, as the leaderboard is sorted and filtered. ` : "") +
    "Mean over seeds with its 95 % CI as a band; the number of seeds in parentheses." +
    (missing ? ` ${missing} without this metric.` : "");
  plots.set(`curves-${number}`, { data, layout: {
    xaxis: { title: "images seen", tickformat: "~s" }, yaxis: { title: learning.titles[metric] },
    hovermode: "x unified", showlegend: true } });
}

learning.boards.forEach((board, number) => {
  const name = `board-${number}`, draw = () => drawCurves(board, number);
  const tables = document.querySelectorAll(`[data-board="${name}"]`);
  tables.forEach((place) => place.querySelector("table").addEventListener("shown", draw));
  document.querySelectorAll(`input[name=curve-${number}]`).forEach((choice) => choice.addEventListener("change", draw));
  document.querySelectorAll(`input[name=${name}]`).forEach((choice) => choice.addEventListener("change", () => {
    tables.forEach((place) => (place.hidden = place.dataset.metric !== choice.value));
    draw();
  }));
  draw();
});

const { runs, keys } = content("configs");
const sides = ["A", "B"].map((side) => document.getElementById(`side-${side}`)).filter(Boolean);
const valueOf = ([values, indices], run) => (indices ? values[indices[run]] ?? "–" : values[0]);

function fill(table, head, lines) {
  const line = (cells, tag) => {
    const row = document.createElement("tr");
    row.append(...cells.map((text) => Object.assign(document.createElement(tag), { textContent: text })));
    return row;
  };
  table.replaceChildren(line(head, "th"), ...lines.map((cells) => line(cells, "td")));
}

function compare() {
  const chosen = sides.map((side) => +side.value);
  const all = Object.entries(keys).map(([key, item]) => [key, ...chosen.map((run) => valueOf(item, run))]);
  const differing = all.filter(([, a, b]) => b !== undefined && a !== b);
  document.getElementById("diff-note").textContent = chosen[0] === chosen[1] || chosen.length < 2
    ? "Select two runs to compare their configs." : `${differing.length} of ${all.length} keys differ.`;
  fill(document.getElementById("diff"), differing.length ? ["key", ...chosen.map((run, i) => `${"AB"[i]}: ${runs[run]}`)] : [], differing);
  fill(document.getElementById("config"), ["key", runs[chosen[0]]], all.filter(([, a]) => a !== "–").map(([key, a]) => [key, a]));
  document.querySelectorAll(".pick button").forEach((button) =>
    button.setAttribute("aria-pressed", String(chosen["AB".indexOf(button.dataset.side)] === +button.dataset.run)));
}

if (sides.length) {
  if (sides[1]) sides[1].selectedIndex = 1;
  sides.forEach((side) => side.addEventListener("change", compare));
  document.getElementById("runs-table").addEventListener("click", ({ target }) => {
    const side = target.dataset.side && document.getElementById(`side-${target.dataset.side}`);
    if (!side) return;
    side.value = target.dataset.run;
    compare();
  });
  compare();
}
