/* So many cards are in the page at a time: thousands would make it slow. */
const MOST = 600;

/* The grid with its filter, and the dialog that shows one card's row of the data: `find` makes of
   the filter's words a test for rows, `draw` fills the dialog, and an address names a row's `number`.
   A grid that is empty gets its `count` items from `card`, when they come into the page; `sort` puts
   rows in order. */
const browse = ({ noun, link, find, draw, number, count, card, sort = (rows) => rows }) => {
  const grid = byId("grid"), filter = byId("filter"), dialog = byId(noun);
  const items = count === undefined ? [...grid.children] : new Array(count);
  const itemOf = (at) => items[at] ??= make("li", {}, card(at));
  const cardOf = (at) => itemOf(at).firstElementChild;
  const rowOf = (target) => items.indexOf(target.closest("#grid > li"));
  // The rows that fit the filter; the items in the page, from `start` on; the focus's and dialog's row.
  let shown = [], start = 0, inside = [...grid.children], current = 0, row = 0;

  const place = (from) => {
    start = from;
    const next = shown.slice(start, start + MOST).map(itemOf), kept = new Set(next);
    for (const item of inside) if (!kept.has(item)) item.remove();
    let here = grid.firstElementChild;
    for (const item of next) {
      if (item === here) here = here.nextElementSibling;
      else grid.insertBefore(item, here);
    }
    inside = next;
    if (inside.length && !inside.includes(itemOf(current))) rove(shown[start]);
  };
  // Space stands for the items before and after, as all are of one height.
  const around = (find) => {
    let padding = "";
    if (shown.length > MOST) {
      const across = countAcross(inside), pitch = top(inside[across]) - top(inside[0]);
      const at = find(across, pitch), last = shown.length - MOST;
      const from = Math.max(0, across * Math.ceil(Math.min(at - MOST / 2, last) / across));
      const off = Math.abs(at - start - MOST / 2) > MOST / 4 || start % across;
      if (off && from !== start) place(from);
      const after = Math.ceil((shown.length - start - inside.length) / across);
      padding = `${start / across * pitch}px 0px ${after * pitch}px`;
    }
    if (grid.style.padding !== padding) grid.style.padding = padding;
  };
  const follow = () => around((across, pitch) =>
    across * Math.floor((innerHeight / 2 - top(grid)) / pitch));
  addEventListener("scroll", follow, { passive: true });
  addEventListener("resize", () => grid.contains(document.activeElement) ? visit(current) : follow());

  const apply = () => {
    const fits = find(filter.value.toLowerCase().split(/[\s,;]+/).filter(Boolean));
    shown = sort([...items.keys()].filter(fits));
    place(0);
    follow();
    byId("count").textContent = shown.length === items.length ? `${items.length} ${noun}s`
      : `${shown.length} of ${items.length} ${noun}s`;
    byId("nothing").hidden = shown.length > 0 || !filter.value;
  };

  /* The grid is one stop of the Tab key, and arrows move inside it. */
  const rove = (to) => {
    if (!items.length) return;
    cardOf(current).tabIndex = -1;
    cardOf(current = to).tabIndex = 0;
  };
  const visit = (to) => {
    if (!shown.includes(to)) {
      // The dialog gave the focus back to the link that opened it, if there was one.
      if (document.activeElement === document.body) filter.focus();
      return;
    }
    around(() => shown.indexOf(to));
    rove(to);
    cardOf(to).focus();
    cardOf(to).scrollIntoView({ block: "nearest" });
  };
  grid.addEventListener("keydown", (event) => {
    if (!isPlain(event)) return;
    const at = shown.indexOf(rowOf(event.target));
    const to = at < 0 ? undefined : step(countAcross(inside), shown.length, at, event.key);
    if (to === undefined) return;
    event.preventDefault();
    visit(shown[to]);
  });
  grid.addEventListener("click", (event) => {
    if (event.target.closest(".card")) open(rowOf(event.target), "pushState", 1);
  });

  /* An entry of the history knows how many of the dialog's lie between it and the grid, so that
     closing the dialog leads back there. None of it must fail where a browser forbids it on file://. */
  let depth = 0;
  const write = (hash, how, to) => {
    try {
      history[how]({ depth: to }, "", hash || location.pathname + location.search);
      depth = to;
    } catch { /* the address is only decoration */ }
  };

  const open = (to, how, deep) => {
    row = to;
    draw(row);
    const at = shown.indexOf(row), button = document.activeElement;
    byId("previous").disabled = at <= 0;
    byId("next").disabled = at < 0 || at >= shown.length - 1;
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
    const stay = byId("buttons").contains(button) && !button.disabled ? button : byId(`${noun}-title`);
    (dialog.querySelector(".cell") ?? stay).focus({ preventScroll: true });
    write(`#${link}-${number(row)}`, how, deep);
  };
  const turn = (by) => {
    const at = shown.indexOf(row);
    if (at >= 0 && at + by in shown) open(shown[at + by], "replaceState", depth);
  };
  byId("previous").addEventListener("click", () => turn(-1));
  byId("next").addEventListener("click", () => turn(1));
  // Focus goes to the card of what was last seen, which need not be the one that was opened.
  const shut = () => {
    // A link that was followed a moment ago is a step further, which is told only later.
    if (location.hash && location.hash !== `#${link}-${number(row)}`) obey();
    dialog.close();
    if (depth) history.go(-depth);
    else write("", "replaceState", 0);
    depth = 0;
    visit(row);
  };
  byId("close").addEventListener("click", shut);
  dialog.addEventListener("click", (event) => { if (event.target === dialog) shut(); });
  dialog.addEventListener("cancel", (event) => { event.preventDefault(); shut(); });
  dialog.addEventListener("keydown", (event) => {
    if (!isPlain(event) || (event.key !== "PageUp" && event.key !== "PageDown")) return;
    event.preventDefault();
    turn(event.key === "PageUp" ? -1 : 1);
  });

  byId("bar").addEventListener("submit", (event) => event.preventDefault());
  filter.addEventListener("input", apply);
  filter.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && filter.value) { filter.value = ""; event.preventDefault(); apply(); }
    if ((event.key === "Enter" || event.key === "ArrowDown") && shown.length) {
      event.preventDefault();
      visit(shown[0]);
    }
  });
  const show = (radio) => grid.style.setProperty("--view", radio.value);
  for (const radio of document.getElementsByName("view")) {
    radio.addEventListener("change", () => show(radio));
  }
  slash(filter, () => dialog.open);

  // A reload may bring back what was typed and chosen.
  const checked = document.querySelector("[name=view]:checked");
  if (checked) show(checked);
  apply();
  const obey = () => {
    const [, named] = location.hash.split(`#${link}-`);
    const at = named === undefined ? -1 : [...items.keys()].findIndex((at) => `${number(at)}` === named);
    // A link followed from the dialog is a step further from the grid.
    if (at >= 0) open(at, "replaceState", history.state?.depth ?? (dialog.open ? depth + 1 : 0));
    else if (dialog.open) {
      dialog.close();
      depth = 0;
      visit(row);
    }
  };
  addEventListener("hashchange", obey);
  // What an address asks for may stand further down in the page.
  if (document.readyState === "loading") addEventListener("DOMContentLoaded", obey);
  else obey();
  return { apply, turn };
};
