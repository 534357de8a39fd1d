const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);

// What is only decoration of the address must not fail where a browser forbids it on file://.
const remember = (hash) => {
  try { history.replaceState(null, "", hash || location.pathname + location.search); } catch { /* fine */ }
};

const top = (box) => box.getBoundingClientRect().top;

/* How many boxes the first row has; no more of them are measured. */
const countAcross = (boxes) => {
  let number = 1;
  while (number < boxes.length && Math.abs(top(boxes[number]) - top(boxes[0])) < 1) number += 1;
  return number;
};

/* Where a key leads among boxes in rows. */
const step = (across, count, at, key) => {
  const to = { ArrowLeft: at - 1, ArrowRight: at + 1, ArrowUp: at - across, ArrowDown: at + across,
    Home: 0, End: count - 1 }[key];
  return to === undefined ? undefined : to < 0 || to >= count ? at : to;
};

const isPlain = (event) => !event.altKey && !event.ctrlKey && !event.metaKey;

/* Names with values, as the facts beside a picture. */
const describe = (facts) => {
  const list = document.createElement("dl");
  for (const [name, value] of facts) {
    const dt = document.createElement("dt"), dd = document.createElement("dd");
    dt.textContent = name;
    dd.textContent = value;
    list.append(dt, dd);
  }
  byId("facts").replaceChildren(list);
};

/* So many cards are in the page at a time: thousands would make it slow. */
const MOST = 600;

/* The grid with its filter, and the dialog that shows one card's row of the data: `find` makes of
   the filter's words a test for rows, `draw` fills the dialog, and an address names a row's `number`. */
const browse = ({ noun, link, find, draw, number }) => {
  const grid = byId("grid"), filter = byId("filter"), dialog = byId(noun);
  const items = [...grid.children], cards = items.map((item) => item.firstElementChild);
  // The rows that fit the filter; the items in the page, from `start` on; the focus's and dialog's row.
  let shown = [], start = 0, inside = items, current = 0, row = 0;

  const place = (from) => {
    start = from;
    const next = shown.slice(start, start + MOST).map((at) => items[at]), kept = new Set(next);
    for (const item of inside) if (!kept.has(item)) item.remove();
    let here = grid.firstElementChild;
    for (const item of next) {
      if (item === here) here = here.nextElementSibling;
      else grid.insertBefore(item, here);
    }
    inside = next;
    if (inside.length && !inside.includes(items[current])) rove(shown[start]);
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
    shown = [...items.keys()].filter(fits);
    place(0);
    follow();
    byId("count").textContent = shown.length === cards.length ? `${cards.length} ${noun}s`
      : `${shown.length} of ${cards.length} ${noun}s`;
    byId("nothing").hidden = shown.length > 0;
  };

  /* The grid is one stop of the Tab key, and arrows move inside it. */
  const rove = (to) => {
    cards[current].tabIndex = -1;
    cards[current = to].tabIndex = 0;
  };
  const visit = (to) => {
    if (!shown.includes(to)) return filter.focus();
    around(() => shown.indexOf(to));
    rove(to);
    cards[to].focus();
    cards[to].scrollIntoView({ block: "nearest" });
  };
  grid.addEventListener("keydown", (event) => {
    if (!isPlain(event)) return;
    const at = shown.indexOf(cards.indexOf(event.target));
    const to = at < 0 ? undefined : step(countAcross(inside), shown.length, at, event.key);
    if (to === undefined) return;
    event.preventDefault();
    visit(shown[to]);
  });
  grid.addEventListener("click", (event) => {
    const card = event.target.closest(".card");
    if (card) open(cards.indexOf(card));
  });

  const open = (to) => {
    row = to;
    draw(row);
    const at = shown.indexOf(row), button = document.activeElement;
    byId("previous").disabled = at <= 0;
    byId("next").disabled = at < 0 || at >= shown.length - 1;
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
    const stay = byId("buttons").contains(button) && !button.disabled ? button : byId(`${noun}-title`);
    (dialog.querySelector(".cell") ?? stay).focus({ preventScroll: true });
    remember(`#${link}-${number(row)}`);
  };
  const turn = (by) => {
    const at = shown.indexOf(row);
    if (at >= 0 && at + by in shown) open(shown[at + by]);
  };
  byId("previous").addEventListener("click", () => turn(-1));
  byId("next").addEventListener("click", () => turn(1));
  // Focus goes to the card of what was last seen, which need not be the one that was opened.
  const shut = () => {
    dialog.close();
    remember("");
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
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !dialog.open && event.target !== filter) {
      event.preventDefault();
      filter.focus();
    }
  });

  // A reload may bring back what was typed and chosen.
  const checked = document.querySelector("[name=view]:checked");
  if (checked) show(checked);
  apply();
  const obey = () => {
    const at = cards.findIndex((_, row) => location.hash === `#${link}-${number(row)}`);
    if (at >= 0) open(at);
  };
  addEventListener("hashchange", obey);
  obey();
  return { apply, turn };
};
