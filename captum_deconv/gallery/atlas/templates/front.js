const filter = byId("filter"), results = byId("results"), network = byId("network");
const MOST = 60;
const link = (href, text, note) => make("a", { href }, text, " ", make("span", {}, note));

/* Words that name layers, numbers that are channels, labels, and files' names. */
const search = (words) => {
  const numbers = words.filter((word) => /^\d+$/.test(word)).map(Number);
  const rest = words.filter((word) => !/^(\d+|channels?|layers?)$/.test(word));
  const holds = (text) => rest.every((word) => text.toLowerCase().includes(word));
  const all = (text) => words.every((word) => text.toLowerCase().includes(word));
  const found = [];
  for (const { name, page, channels } of data.layers) {
    if (all(name)) found.push(link(page, name, "layer"));
    if (!holds(name)) continue;
    for (const number of numbers) {
      if (number < channels) found.push(link(`${page}#channel-${number}`, `${name}, channel ${number}`, "channel"));
    }
  }
  data.labels.forEach(({ name, best }) => {
    if (!all(name)) return;
    for (const [layer, channel, lift] of best) {
      const { name: of, page } = data.layers[layer];
      found.push(link(`${page}#channel-${channel}`, `${of}, channel ${channel}`, `lift ${lift} for ${name}`));
    }
  });
  for (const [sample, name] of data.pictures) {
    if (found.length > MOST) break;
    if (all(name)) found.push(link(`pictures.html#picture-${sample}`, name, "picture"));
  }
  return found;
};
const apply = () => {
  const words = filter.value.toLowerCase().split(/[\s,;]+/).filter(Boolean);
  const found = words.length ? search(words) : [];
  results.replaceChildren(...found.slice(0, MOST).map((item) => make("li", {}, item)));
  results.hidden = !found.length;
  byId("nothing").hidden = found.length > 0 || !words.length;
  network.hidden = words.length > 0;
  byId("count").textContent = !words.length ? "" : found.length > MOST ? `the first ${MOST} of more`
    : `${found.length} found`;
};
const rove = (boxes, event) => {
  if (!isPlain(event)) return;
  const key = { ArrowLeft: "", ArrowRight: "" }[event.key] ?? event.key;
  const at = boxes.indexOf(document.activeElement), to = at < 0 ? undefined : step(1, boxes.length, at, key);
  if (to === undefined) return;
  event.preventDefault();
  boxes[to].focus();
};
network.addEventListener("keydown", (event) => rove([...network.querySelectorAll(".door")], event));
results.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    filter.value = "";
    apply();
    filter.focus();
  } else rove([...results.querySelectorAll("a")], event);
});
byId("bar").addEventListener("submit", (event) => event.preventDefault());
filter.addEventListener("input", apply);
filter.addEventListener("keydown", (event) => {
  const first = (results.hidden ? network : results).querySelector("a");
  if (event.key === "Escape" && filter.value) {
    filter.value = "";
    event.preventDefault();
    apply();
  } else if (event.key === "ArrowDown" && first) {
    event.preventDefault();
    first.focus();
  } else if (event.key === "Enter" && !results.hidden) first.click();
});
// From nowhere an arrow leads to the first layer.
document.addEventListener("keydown", (event) => {
  if (event.key !== "ArrowDown" || !isPlain(event) || document.activeElement !== document.body) return;
  event.preventDefault();
  network.querySelector(".door")?.focus();
});
slash(filter);
apply();
