"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const grid = byId("grid"), filter = byId("filter"), hideDead = byId("hide-dead");
  const dialog = byId("channel"), views = byId("views");
  const items = [...grid.children], cards = items.map((item) => item.firstElementChild);
  const [cellHeight, cellWidth] = data.cell, [imageHeight, imageWidth] = data.image;
  let shown = cards.slice(), row = 0, rank = 0;

  // What is only decoration of the address must not fail where a browser forbids it on file://.
  const remember = (hash) => {
    try { history.replaceState(null, "", hash || location.pathname + location.search); } catch { /* fine */ }
  };

  /* The filter: numbers and ranges are channels; other words must all be in a sample's name. */
  const find = (text) => {
    const words = text.toLowerCase().split(/[\s,;]+/).filter(Boolean);
    const ranges = [], rest = [];
    for (const word of words) {
      const found = /^(\d+)(?:(?:-|\.\.)(\d+))?$/.exec(word);
      if (found) ranges.push([+found[1], +(found[2] ?? found[1])]);
      else rest.push(word);
    }
    return (entry) => {
      if (ranges.length && !ranges.some(([a, b]) => entry.channel >= a && entry.channel <= b)) return false;
      return rest.every((word) => word === "dead" ? entry.dead
        : entry.neurons.some((neuron) => data.names[neuron.sample].toLowerCase().includes(word)));
    };
  };
  const apply = () => {
    const fits = find(filter.value);
    shown = [];
    data.channels.forEach((entry, number) => {
      const hidden = !fits(entry) || (hideDead.checked && entry.dead);
      items[number].hidden = hidden;
      if (!hidden) shown.push(cards[number]);
    });
    byId("count").textContent = shown.length === cards.length ? `${cards.length} channels`
      : `${shown.length} of ${cards.length} channels`;
    byId("nothing").hidden = shown.length > 0;
    if (shown.length) rove(shown.find((card) => card.tabIndex === 0) ?? shown[0]);
  };

  /* The grid is one stop of the Tab key, and arrows move inside it. */
  const rove = (card) => {
    for (const other of cards) if (other !== card) other.tabIndex = -1;
    card.tabIndex = 0;
  };
  const step = (list, at, key) => {
    const tops = list.map((one) => Math.round(one.getBoundingClientRect().top));
    const first = tops.findIndex((top) => top !== tops[0]);
    const across = first < 0 ? list.length : first;
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, ArrowUp: at - across, ArrowDown: at + across,
      Home: 0, End: list.length - 1 }[key];
    return to === undefined ? undefined : to < 0 || to >= list.length ? at : to;
  };
  grid.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const at = shown.indexOf(event.target);
    const to = at < 0 ? undefined : step(shown, at, event.key);
    if (to === undefined) return;
    event.preventDefault();
    rove(shown[to]);
    shown[to].focus();
  });
  grid.addEventListener("click", (event) => {
    const card = event.target.closest(".card");
    if (card) open(cards.indexOf(card));
  });

  /* One channel. Its strip holds a row of k pictures for each view. */
  const draw = () => {
    const entry = data.channels[row], strip = `url("${data.pictures}/strip-${entry.channel}.webp")`;
    byId("channel-title").textContent = `Channel ${entry.channel}`;
    byId("channel-note").textContent = entry.dead ? "dead: never above zero" : data.layer;
    views.replaceChildren(...data.views.map((view, number) => {
      const section = document.createElement("section"), heading = document.createElement("h3");
      const nine = document.createElement("div");
      heading.textContent = view;
      nine.className = "nine";
      nine.setAttribute("role", "group");
      nine.setAttribute("aria-label", view);
      entry.neurons.forEach((neuron, at) => {
        const cell = document.createElement("button");
        cell.type = "button";
        cell.className = Math.max(cellHeight, cellWidth) <= 32 ? "cell small" : "cell";
        cell.dataset.rank = at;
        cell.style.backgroundImage = strip;
        cell.style.backgroundSize = `${100 * data.k}% ${100 * data.views.length}%`;
        const part = (index, count) => count > 1 ? `${100 * index / (count - 1)}%` : "0%";
        cell.style.backgroundPosition = `${part(at, data.k)} ${part(number, data.views.length)}`;
        cell.setAttribute("aria-label",
          `${view} ${at + 1} of ${entry.neurons.length}: ${neuron.value}, ${data.names[neuron.sample]}`);
        cell.addEventListener("click", () => choose(at));
        cell.addEventListener("focus", () => choose(at));
        nine.append(cell);
      });
      section.append(heading, nine);
      return section;
    }));
    const at = shown.indexOf(cards[row]);
    byId("previous").disabled = at <= 0;
    byId("next").disabled = at < 0 || at >= shown.length - 1;
    choose(0);
  };
  const choose = (to) => {
    rank = to;
    const neuron = data.channels[row].neurons[rank], whole = byId("whole"), box = byId("box");
    for (const cell of views.querySelectorAll(".cell")) {
      const chosen = +cell.dataset.rank === rank;
      cell.classList.toggle("chosen", chosen);
      cell.setAttribute("aria-pressed", chosen);
      cell.tabIndex = chosen ? 0 : -1;
    }
    box.hidden = whole.hidden = !neuron;
    const facts = document.createElement("dl");
    const add = (name, value) => {
      const dt = document.createElement("dt"), dd = document.createElement("dd");
      dt.textContent = name;
      dd.textContent = value;
      facts.append(dt, dd);
    };
    if (neuron) {
      const [top, left, bottom, right] = neuron.field, name = data.names[neuron.sample];
      whole.src = `${data.pictures}/image-${neuron.sample}.webp`;
      whole.alt = `The whole image, ${name}`;
      box.style.top = `${100 * top / imageHeight}%`;
      box.style.left = `${100 * left / imageWidth}%`;
      box.style.height = `${100 * (bottom - top) / imageHeight}%`;
      box.style.width = `${100 * (right - left) / imageWidth}%`;
      add("Activation", neuron.value);
      add("Sample", name);
      if (neuron.place) add("Position", `(${neuron.place})`);
      add("Sees", `rows ${top} to ${bottom - 1}, columns ${left} to ${right - 1}`);
      if (neuron.zero) add("Projection", "zero everywhere");
    } else add("Activation", "none on any image");
    byId("facts").replaceChildren(facts);
  };
  const open = (to) => {
    row = to;
    draw();
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
    (views.querySelector(".cell") ?? byId("close")).focus({ preventScroll: true });
    remember(`#channel-${data.channels[row].channel}`);
  };
  const turn = (by) => {
    const next = shown[shown.indexOf(cards[row]) + by];
    if (next && shown.includes(cards[row])) open(cards.indexOf(next));
  };
  byId("previous").addEventListener("click", () => turn(-1));
  byId("next").addEventListener("click", () => turn(1));
  // Focus goes to the card of the channel last seen, which need not be the one that was opened.
  const shut = () => {
    dialog.close();
    remember("");
    rove(cards[row]);
    cards[row].focus();
  };
  byId("close").addEventListener("click", shut);
  dialog.addEventListener("click", (event) => { if (event.target === dialog) shut(); });
  dialog.addEventListener("cancel", (event) => { event.preventDefault(); shut(); });
  dialog.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "PageUp" || event.key === "PageDown") {
      event.preventDefault();
      turn(event.key === "PageUp" ? -1 : 1);
      return;
    }
    const nine = event.target.closest(".nine");
    if (!nine) return;
    const list = [...nine.children], to = step(list, list.indexOf(event.target), event.key);
    if (to === undefined) return;
    event.preventDefault();
    list[to].focus();
  });

  byId("bar").addEventListener("submit", (event) => event.preventDefault());
  filter.addEventListener("input", apply);
  filter.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && filter.value) { filter.value = ""; event.preventDefault(); apply(); }
    if ((event.key === "Enter" || event.key === "ArrowDown") && shown.length) {
      event.preventDefault();
      rove(shown[0]);
      shown[0].focus();
    }
  });
  hideDead.addEventListener("change", apply);
  for (const radio of document.getElementsByName("view")) {
    radio.addEventListener("change", () => grid.style.setProperty("--view", radio.value));
  }
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !dialog.open && event.target !== filter) {
      event.preventDefault();
      filter.focus();
    }
  });

  // A reload may bring back what was typed and chosen.
  const checked = document.querySelector("[name=view]:checked");
  if (checked) grid.style.setProperty("--view", checked.value);
  apply();
  const linked = /^#channel-(\d+)$/.exec(location.hash);
  const at = linked ? data.channels.findIndex((entry) => entry.channel === +linked[1]) : -1;
  if (at >= 0) open(at);
})();
