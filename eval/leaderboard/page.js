"use strict";
(() => {
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const byId = (id) => document.getElementById(id);

  // Sorting: numbers as numbers, other keys as text; cells without a key last, both ways.
  const key = (body, column) => body.rows[0].cells[column].dataset.key;
  const compare = (a, b) => (isNaN(a) || isNaN(b) ? (a < b ? -1 : a > b ? 1 : 0) : a - b);

  function sort(table, head, falling) {
    const bodies = [...table.tBodies];
    const column = head.cellIndex;
    bodies.sort((first, second) => {
      const a = key(first, column), b = key(second, column);
      if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
      return falling ? compare(b, a) : compare(a, b);
    });
    table.append(...bodies);
    all("thead th", table).forEach((th) => th.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", falling ? "descending" : "ascending");
  }

  all("thead button:not(.unfold)").forEach((button) => button.addEventListener("click", () => {
    const head = button.closest("th");
    const now = head.getAttribute("aria-sort");
    const falling = now === "none" ? button.dataset.falling === "1" : now === "ascending";
    sort(head.closest("table"), head, falling);
  }));

  all(".expand").forEach((button) => button.addEventListener("click", () => {
    const details = byId(button.getAttribute("aria-controls"));
    details.hidden = !details.hidden;
    button.setAttribute("aria-expanded", String(!details.hidden));
  }));

  // Subtasks: the columns of a group, hidden until its button is clicked.
  all(".unfold").forEach((button) => button.addEventListener("click", () => {
    const open = button.getAttribute("aria-expanded") !== "true";
    button.setAttribute("aria-expanded", String(open));
    all("th[data-group], td[data-group]", button.closest("table"))
      .filter((cell) => cell.dataset.group === button.dataset.group)
      .forEach((cell) => { cell.hidden = !open; });
  }));

  // Filters: a value starts with "=", so that "all" (empty) is no name of a pool.
  const filters = ["pool", "suite", "method"].map((name) => byId("filter-" + name));
  const unmerged = byId("filter-unmerged");

  function filter() {
    const [pool, suite, method] = filters.map((select) => select.value);
    let shown = 0, total = 0;
    all(".board").forEach((board) => {
      const bodies = all("tbody", board);
      const merges = bodies.filter((body) => body.dataset.merge === "1");
      const wanted = merges.filter((body) => !method || body.dataset.method === method);
      board.hidden = !wanted.length
        || Boolean(pool) && board.dataset.pool !== pool
        || Boolean(suite) && board.dataset.suite !== suite;
      bodies.forEach((body) => {
        body.hidden = body.dataset.merge === "1" ? !wanted.includes(body) : !unmerged.checked;
      });
      total += merges.length;
      shown += board.hidden ? 0 : wanted.length;
    });
    byId("count").value = shown + " of " + total + " merges";
  }

  [...filters, unmerged].forEach((control) => control.addEventListener("change", filter));
  filter();

  // Theme: the system's, until a click chooses; a page without storage forgets the choice.
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;
  const stored = (value) => {
    try {
      if (value) localStorage.setItem("theme", value);
      return localStorage.getItem("theme");
    } catch { return null; }
  };
  const saved = stored();
  if (saved === "light" || saved === "dark") root.dataset.theme = saved;
  byId("theme").addEventListener("click", () => {
    const now = root.dataset.theme || (dark.matches ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
    stored(root.dataset.theme);
  });
})();
