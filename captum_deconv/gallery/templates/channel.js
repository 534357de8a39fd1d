const views = byId("views"), dialog = byId("channel"), [cellHeight, cellWidth] = data.cell;
let entry, rank = 0;

/* One channel. Its strip holds a row of k pictures for each view. */
const drawChannel = (to) => {
  entry = to;
  const strip = `url("${entry.folder ?? data.pictures}/strip-${entry.channel}.webp")`;
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
  choose(0);
};
const choose = (to) => {
  rank = to;
  const neuron = entry.neurons[rank], whole = byId("whole"), box = byId("box");
  for (const cell of views.querySelectorAll(".cell")) {
    const chosen = +cell.dataset.rank === rank;
    cell.classList.toggle("chosen", chosen);
    cell.setAttribute("aria-pressed", chosen);
    cell.tabIndex = chosen ? 0 : -1;
  }
  box.hidden = whole.hidden = !neuron;
  if (!neuron) return describe([["Activation", "none on any image"]]);
  const [top, left, bottom, right] = neuron.field, name = data.names[neuron.sample];
  const [imageHeight, imageWidth] = data.sizes[neuron.sample] ?? data.image;
  whole.parentElement.style.aspectRatio = `${imageWidth} / ${imageHeight}`;
  whole.src = `${data.images ?? data.pictures}/image-${neuron.sample}.webp`;
  whole.alt = `The whole image, ${name}`;
  box.style.top = `${100 * top / imageHeight}%`;
  box.style.left = `${100 * left / imageWidth}%`;
  box.style.height = `${100 * (bottom - top) / imageHeight}%`;
  box.style.width = `${100 * (right - left) / imageWidth}%`;
  const facts = [["Activation", neuron.value], ["Sample", name, data.page && `${data.page}#picture-${neuron.sample}`]];
  if (neuron.place) facts.push(["Position", `(${neuron.place})`]);
  facts.push(["Sees", `rows ${top} to ${bottom - 1}, columns ${left} to ${right - 1}`]);
  if (neuron.zero) facts.push(["Projection", "zero everywhere"]);
  describe(facts);
};
dialog.addEventListener("keydown", (event) => {
  const nine = event.target.closest(".nine");
  if (!nine || !isPlain(event)) return;
  const cells = [...nine.children];
  const to = step(countAcross(cells), cells.length, cells.indexOf(event.target), event.key);
  if (to === undefined) return;
  event.preventDefault();
  cells[to].focus();
});

/* The filter: numbers and ranges are channels, "dead" says what they are, and every other word must be
   in one of the names that a row has. Dead rows are left out where `hides` says so. */
const findBy = (read, hides) => (words) => {
  const ranges = [], rest = [];
  for (const word of words) {
    const found = /^(\d+)(?:(?:-|\.\.)(\d+))?$/.exec(word);
    if (found) ranges.push([+found[1], +(found[2] ?? found[1])]);
    else rest.push(word);
  }
  return (row) => {
    const { channel, dead, hasName } = read(row);
    if (dead && hides(words)) return false;
    if (ranges.length && !ranges.some(([a, b]) => channel >= a && channel <= b)) return false;
    return rest.every((word) => word === "dead" ? dead
      : hasName((name) => (name ?? "").toLowerCase().includes(word)));
  };
};
