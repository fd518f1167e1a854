"use strict";
(() => {
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const byId = (id) => document.getElementById(id);
  const element = (name, text = "", classes = "") => {
    const made = document.createElement(name);
    made.textContent = text;
    made.className = classes;
    return made;
  };
  const embedded = (script) => JSON.parse(script.textContent);

  const tableOf = (board) => board.querySelector("table");
  const rowsOf = (board) => [...tableOf(board).tBodies];
  const headsOf = (board) => [...tableOf(board).tHead.rows[0].cells];
  const labelOf = (head) => head.querySelector("button").textContent;

  // Sorting: numbers as numbers, other keys as text; cells without a key last, both ways.
  const key = (body, column) => body.rows[0].cells[column].dataset.key;
  const compare = (a, b) => (isNaN(a) || isNaN(b) ? (a < b ? -1 : a > b ? 1 : 0) : a - b);

  function sort(board, head, falling) {
    const column = head.cellIndex;
    const bodies = rowsOf(board).sort((first, second) => {
      const a = key(first, column), b = key(second, column);
      if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
      return falling ? compare(b, a) : compare(a, b);
    });
    tableOf(board).append(...bodies);
    all("th[aria-sort]", tableOf(board)).forEach((th) => th.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", falling ? "descending" : "ascending");
  }

  all("thead button:not(.unfold)").forEach((button) => button.addEventListener("click", () => {
    const head = button.closest("th");
    const now = head.getAttribute("aria-sort");
    const falling = now === "none" ? button.dataset.falling === "1" : now === "ascending";
    sort(head.closest(".board"), head, falling);
    keepState();
  }));

  // Details: built from the board's data when they are first asked for, as texts. In the data
  // each text is there once, numbered.
  function detailsOf(body) {
    const { texts, rows } = embedded(body.closest(".board").querySelector(".details"));
    const textOf = (value) => (Array.isArray(value) ? value.map(textOf) : texts[value] ?? null);
    return textOf(rows[body.dataset.place]);
  }

  function commandLine(command) {
    const line = element("div", "", "command");
    line.append(element("code", command));
    if (!navigator.clipboard) return line;
    const copy = element("button", "copy");
    copy.type = "button";
    copy.addEventListener("click", async () => {
      await navigator.clipboard.writeText(command);
      copy.textContent = "copied";
    });
    line.append(copy);
    return line;
  }

  function addDetails(body, button) {
    const [error, command, sections] = detailsOf(body);
    const box = element("div", "", "sections");
    const section = (title, content, classes = "") => {
      const part = element("div", "", classes);
      part.append(element("h3", title), content);
      box.append(part);
    };
    if (error !== null) section("Error", element("pre", error), "wide");
    if (command !== null) section("Command that repeats the run", commandLine(command), "wide");
    sections.forEach(([title, entries]) => {
      const list = element("dl");
      entries.forEach(([name, value]) => list.append(element("dt", name), element("dd", value)));
      section(title, list);
    });
    const row = element("tr", "", "details"), cell = element("td");
    row.id = [body.closest(".board").id, body.dataset.place].join("-");
    row.hidden = true;
    cell.colSpan = body.rows[0].cells.length;
    cell.append(box);
    row.append(cell);
    body.append(row);
    button.setAttribute("aria-controls", row.id);
  }

  all(".expand").forEach((button) => button.addEventListener("click", () => {
    const body = button.closest("tbody");
    if (!body.rows[1]) addDetails(body, button);
    const details = body.rows[1];
    details.hidden = !details.hidden;
    button.setAttribute("aria-expanded", String(!details.hidden));
  }));

  // Figures: drawn when they come near the window, or are printed; their texts were escaped.
  function draw(drawing) {
    const data = drawing.querySelector("script");
    if (data) drawing.innerHTML = embedded(data);
  }

  const drawings = all(".drawing");
  const watch = new IntersectionObserver((entries) => {
    entries.filter((entry) => entry.isIntersecting).forEach((entry) => {
      draw(entry.target);
      watch.unobserve(entry.target);
    });
  }, { rootMargin: "800px" });
  drawings.forEach((drawing) => watch.observe(drawing));
  addEventListener("beforeprint", () => drawings.forEach(draw));

  // Subtasks: the columns of a group, hidden until its button is clicked.
  all(".unfold").forEach((button) => button.addEventListener("click", () => {
    const open = button.getAttribute("aria-expanded") !== "true";
    button.setAttribute("aria-expanded", String(open));
    all("th[data-group], td[data-group]", button.closest("table"))
      .filter((cell) => cell.dataset.group === button.dataset.group)
      .forEach((cell) => { cell.hidden = !open; });
  }));

  // Filters: a value starts with "=", so that "all" (empty) is no name of a pool.
  const names = ["pool", "suite", "method"];
  const filters = names.map((name) => byId("filter-" + name));
  const unmerged = byId("filter-unmerged");

  function filter() {
    const [pool, suite, method] = filters.map((select) => select.value);
    let listed = 0, total = 0;
    all(".board").forEach((board) => {
      const bodies = rowsOf(board);
      const merges = bodies.filter((body) => body.dataset.merge === "1");
      const wanted = merges.filter((body) => !method || body.dataset.method === method);
      board.hidden = !wanted.length
        || Boolean(pool) && board.dataset.pool !== pool
        || Boolean(suite) && board.dataset.suite !== suite;
      const kept = new Set(wanted);
      bodies.forEach((body) => {
        body.hidden = body.dataset.merge === "1" ? !kept.has(body) : !unmerged.checked;
      });
      total += merges.length;
      listed += board.hidden ? 0 : wanted.length;
    });
    byId("count").value = listed + " of " + total + " merges";
  }

  [...filters, unmerged].forEach((control) => control.addEventListener("change", () => {
    filter();
    keepState();
  }));

  // Comparison: scores are those of the table's cells, half-widths of the intervals come with
  // the page; only differences and sums are taken here.
  const unpacked = new Map();
  function pairsOf(board) {
    if (!unpacked.has(board)) {
      const pairs = embedded(board.querySelector(".comparison > script"));
      const levels = Uint8Array.from(atob(pairs.halfWidths), (letter) => letter.charCodeAt(0));
      unpacked.set(board, { ...pairs, levels });
    }
    return unpacked.get(board);
  }

  function halfWidth(pairs, column, i, j) {
    const n = pairs.rows.length, [low, high] = i < j ? [i, j] : [j, i];
    const place = column * n * (n - 1) / 2 + high * (high - 1) / 2 + low;
    const level = pairs.levels[place];
    return level ? pairs.smallest * pairs.ratio ** (level - 1) : 0;
  }

  const signed = (fraction) => {
    const text = (100 * fraction).toFixed(2);
    return text === "-0.00" || text === "0.00" ? "0.00" : fraction > 0 ? "+" + text : text;
  };

  function differences(board, first, second) {
    const pairs = pairsOf(board);
    const [i, j] = [first, second].map((body) => pairs.rows.indexOf(body.dataset.row));
    return pairs.columns.map((column, place) => {
      const [a, b] = [first, second].map((body) => Number(key(body, column)));
      const half = halfWidth(pairs, place, i, j);
      return { name: labelOf(headsOf(board)[column]), a, b, low: a - b - half, high: a - b + half };
    });
  }

  function picture(line, widest) {
    const across = (fraction) => 50 + 50 * fraction / widest + "%";
    const box = element("div");
    const part = (name, styles) => {
      const made = element("i", "", name);
      Object.assign(made.style, styles);
      box.append(made);
    };
    part("zero", {});
    part("interval", { left: across(line.low), right: 50 - 50 * line.high / widest + "%" });
    part("point", { left: across(line.a - line.b) });
    return box;
  }

  function showComparison(board) {
    const panel = board.querySelector(".comparison");
    if (!panel) return;
    const [first, second] = picked(board);
    panel.hidden = !second;
    if (!second) return;
    panel.querySelector("h3").textContent = first.dataset.label + " less " + second.dataset.label;
    panel.querySelector(".first").textContent = first.dataset.label;
    panel.querySelector(".second").textContent = second.dataset.label;
    const lines = differences(board, first, second);
    const widest = Math.max(...lines.map((line) => Math.max(-line.low, line.high))) || 1;
    panel.querySelector("tbody").replaceChildren(...lines.map((line, place) => {
      const row = element("tr", "", place ? "" : "mean");
      row.classList.toggle("apart", line.low > 0 || line.high < 0);
      const head = element("th", place ? line.name : "mean");
      head.scope = "row";
      const drawn = element("td", "", "picture");
      drawn.append(picture(line, widest));
      row.append(
        head,
        element("td", (100 * line.a).toFixed(2), "number"),
        element("td", (100 * line.b).toFixed(2), "number"),
        element("td", signed(line.a - line.b), "number"),
        element("td", signed(line.low) + " to " + signed(line.high), "number"),
        drawn,
      );
      return row;
    }));
  }

  // The rows that are ticked, at most two of one board, in the order in which they were.
  let ticked = [];
  const boxOf = (body) => body.querySelector(".pick");
  const picked = (board) => ticked.filter((body) => board.contains(body));

  function pick(bodies) {
    ticked.forEach((body) => { boxOf(body).checked = false; });
    ticked = bodies;
    ticked.forEach((body) => { boxOf(body).checked = true; });
    all(".board").forEach(showComparison);
  }

  all(".pick").forEach((box) => box.addEventListener("change", () => {
    const body = box.closest("tbody"), board = box.closest(".board");
    const others = picked(board).filter((other) => other !== body);
    pick(box.checked ? [...others.slice(-1), body] : others);
    keepState();
  }));

  all(".comparison").forEach((panel) => {
    const change = (selector, change) => panel.querySelector(selector)
      .addEventListener("click", () => { pick(change([...ticked])); keepState(); });
    change(".swap", (rows) => rows.reverse());
    change(".close", () => []);
  });

  // The address keeps filters, sorting and the two rows: pool=, suite=, method=, unmerged=0,
  // sort=BOARD COLUMN up|down for each sorted board, rows=BOARD ROW ROW.
  function keepState() {
    const state = new URLSearchParams();
    names.forEach((name, i) => {
      if (filters[i].value) state.set(name, filters[i].value.slice(1));
    });
    if (!unmerged.checked) state.set("unmerged", "0");
    all(".board").forEach((board) => {
      const head = headsOf(board).find((th) => (th.ariaSort ?? "none") !== "none");
      if (head) {
        const order = head.ariaSort === "descending" ? "down" : "up";
        state.append("sort", [board.id, order, labelOf(head)].join(" "));
      }
    });
    if (ticked.length) {
      const board = ticked[0].closest(".board");
      state.set("rows", [board.id, ...ticked.map((body) => body.dataset.row)].join(" "));
    }
    history.replaceState(null, "", "#" + state);
  }

  function restoreState() {
    const state = new URLSearchParams(location.hash.slice(1));
    names.forEach((name, i) => {
      const wanted = state.has(name) ? "=" + state.get(name) : "";
      const known = [...filters[i].options].some((option) => option.value === wanted);
      filters[i].value = known ? wanted : "";
    });
    unmerged.checked = state.get("unmerged") !== "0";
    state.getAll("sort").forEach((sorted) => {
      const [id, order, ...label] = sorted.split(" ");
      const board = all(".board").find((other) => other.id === id);
      const head = board && headsOf(board).find(
        (th) => th.hasAttribute("aria-sort") && labelOf(th) === label.join(" "));
      if (head) sort(board, head, order === "down");
    });
    const [id, ...keys] = (state.get("rows") || "").split(" ");
    const board = all(".board").find((other) => other.id === id);
    const bodies = board ? rowsOf(board).filter(boxOf) : [];
    pick([...new Set(keys)].slice(0, 2)
      .map((wanted) => bodies.find((body) => body.dataset.row === wanted)).filter(Boolean));
    filter();
  }

  addEventListener("hashchange", () => { if (location.hash.includes("=")) restoreState(); });
  restoreState();

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
