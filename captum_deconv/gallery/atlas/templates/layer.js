/* A row is [number, strongest, dead, selectivity, samples, labels]. What else there is to a channel
   stands below this script, in parts, so that the grid does not wait for it; it stays text until it is
   looked at. */
const order = byId("order"), PART = data.part;
const small = Math.max(...data.cell) <= 32;
const folderOf = (row) => `${data.folder}/part-${Math.floor(row / PART)}`;

/* A picture out of a part's sheet: it is loaded when it comes near the screen. */
const near = new IntersectionObserver((seen) => {
  for (const { target, isIntersecting } of seen) {
    if (!isIntersecting) continue;
    target.style.backgroundImage = `url("${target.dataset.sheet}")`;
    near.unobserve(target);
  }
}, { rootMargin: "500px" });
const cut = (row, file = `${folderOf(row)}/sheet.webp`, view) => {
  const sheet = make("span", { className: small ? "sheet small" : "sheet" });
  sheet.dataset.sheet = file;
  sheet.style.setProperty("--at", `${100 * (row % PART) / (PART - 1)}%`);
  if (view !== undefined) sheet.style.setProperty("--view", view);
  near.observe(sheet);
  return sheet;
};
const card = (row) => {
  const [channel, value, dead] = data.rows[row], said = dead ? "dead" : value;
  const button = make("button", { type: "button", className: "card", tabIndex: -1 }, cut(row),
    make("span", { className: "caption" }, make("b", {}, channel), " ", make("span", {}, said)));
  button.setAttribute("aria-haspopup", "dialog");
  button.setAttribute("aria-label", `Channel ${channel}, ${said}`);
  if (dead) button.classList.add("dead");
  return button;
};

const find = findBy((row) => {
  const [channel, , dead, , samples, labels] = data.rows[row];
  return { channel, dead, hasName: (fits) => samples.some((sample) => fits(data.names[sample]))
    || labels.some((label) => fits(data.labels[label])) };
}, (words) => !words.length);
const places = new Map(data.similar.map((row, place) => [row, place]));
const sort = (rows) => {
  const by = { number: (row) => row, strength: (row) => -data.rows[row][1],
    selectivity: (row) => -data.rows[row][3], similarity: (row) => places.get(row) }[order.value];
  return rows.sort((a, b) => data.rows[a][2] - data.rows[b][2] || by(a) - by(b) || a - b);
};

/* What there is to a channel beside its patches. */
const section = (title, className, ...children) =>
  make("section", { className }, make("h3", {}, title), ...children);
const drawBars = ({ counts, low, high }) => {
  const most = Math.max(...counts), path = counts.map((count, place) => {
    // Ten images beside a thousand are seen: heights are as the square root.
    const height = 60 * Math.sqrt(count / most);
    return height ? `M${place * 10} 60v-${height.toFixed(1)}h9v${height.toFixed(1)}z` : "";
  });
  const bars = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  for (const [name, value] of Object.entries({ class: "bars", viewBox: `0 0 ${counts.length * 10} 60`,
    preserveAspectRatio: "none", role: "img",
    "aria-label": `${counts.length} bars from ${low} to ${high}: ${counts.join(", ")} images` })) {
    bars.setAttribute(name, value);
  }
  const drawn = document.createElementNS("http://www.w3.org/2000/svg", "path");
  drawn.setAttribute("d", path.join(""));
  bars.append(drawn);
  return section("Strongest activation in each image", "", bars,
    make("div", { className: "ends" }, make("span", {}, low), make("span", {}, high)),
    make("p", {}, `Images by their activation; the bars' heights are as the square root of how many.`));
};
const draw = (row) => {
  const part = byId(`part-${Math.floor(row / PART)}`);
  if (!part) return addEventListener("DOMContentLoaded", () => draw(row), { once: true });
  const [channel, , dead, selectivity] = data.rows[row], more = JSON.parse(part.textContent)[row % PART];
  drawChannel({ channel, dead, folder: folderOf(row), neurons: more.neurons });
  byId("channel-note").textContent = `${data.layer}, ${dead ? "dead: never above zero" : `selectivity ${selectivity}`}`;
  const parts = [drawBars(more)];
  if (data.labels.length) {
    parts.push(section("Labels that excite it most", "", more.labels.length ? make("table", {},
      make("tbody", {}, ...more.labels.map(([label, count, lift]) => make("tr", {},
        make("td", {}, data.labels[label] ?? `label ${label}`),
        make("td", {}, `${count} of ${data.strongest}`), make("td", {}, `lift ${lift}`)))))
      : make("p", {}, "None more than by chance.")));
  }
  if (more.alike.length) {
    parts.push(section("Channels most like it", "", make("ul", { className: "alike" },
      ...more.alike.map(([other, cosine]) => make("li", {}, make("a", { href: `#channel-${data.rows[other][0]}` },
        cut(other), make("span", {}, make("b", {}, data.rows[other][0]), ` ${cosine}`)))))));
  }
  if (more.steps.length) {
    parts.push(section("Over training: its strongest patch, and the projection", "wide",
      make("ul", { className: "steps" }, ...more.steps.map(([step, value]) => {
        const file = `${data.folder}/step-${step}-${Math.floor(row / PART)}.webp`;
        return make("li", {}, cut(row, file, 0), cut(row, file, 1),
          make("span", {}, make("b", {}, data.steps[step]), ` ${value}`));
      }))));
  }
  byId("more").replaceChildren(...parts);
};

const { apply } = browse({ noun: "channel", link: "channel", find, draw, sort, card,
  count: data.rows.length, number: (row) => data.rows[row][0] });
order.addEventListener("change", apply);
for (const radio of document.getElementsByName("view")) {
  radio.addEventListener("change", () => byId("grid").classList.toggle("turned", radio.value !== "0"));
}
