const large = [...document.querySelectorAll(".large")];
for (const image of large) {
  image.addEventListener("load", () => image.classList.toggle("small", image.naturalWidth <= data.small));
}

/* The filter: every word must be in an item's name, target or label; "wrong" is one that the network is. */
const entries = data.items.map(([name, target, predicted, label, score]) => {
  const say = (at) => at === null ? "" : data.texts[at];
  const facts = { name, target: say(target), predicted: say(predicted), label: say(label), score };
  const words = `${name}\n${facts.target}\n${facts.label}`.toLowerCase();
  return { facts, words, wrong: label !== null && predicted !== null && label !== predicted };
});
const labelled = entries.some((entry) => entry.facts.label);
const find = (words) => (row) => words.every((word) => word === "wrong" && labelled ? entries[row].wrong
  : entries[row].words.includes(word));

const draw = (row) => {
  const { facts, wrong } = entries[row];
  byId("image-title").textContent = `Item ${row}`;
  byId("image-note").textContent = facts.name;
  data.files.forEach((file, view) => { large[view].src = `${data.pictures}/${file}-${row}.webp`; });
  describe([["Name", facts.name], ["Target", facts.target],
    ["Predicted", facts.predicted && facts.predicted + (wrong ? " (wrong)" : "")],
    ["Label", facts.label], ["Score", facts.score]].filter(([, value]) => value));
};

const { turn } = browse({ noun: "image", link: "item", find, draw, number: (row) => row });
byId("image").addEventListener("keydown", (event) => {
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!by || !isPlain(event)) return;
  event.preventDefault();
  turn(by);
});
