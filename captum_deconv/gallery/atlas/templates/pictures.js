/* A row is [sample, label]; its neurons stay text until they are looked at. */
const pathOf = (sample) => `${data.images}/image-${sample}.webp`;
const nameOf = (row) => data.names[data.rows[row][0]];
const labelOf = (row) => data.labels[data.rows[row][1]] ?? "";
const card = (row) => {
  const image = make("img", { alt: "", loading: "lazy", decoding: "async", src: pathOf(data.rows[row][0]) });
  const button = make("button", { type: "button", className: "card", tabIndex: -1 },
    make("span", { className: "thumb" }, image),
    make("span", { className: "caption" }, make("b", {}, nameOf(row)), make("span", {}, labelOf(row))));
  button.setAttribute("aria-haspopup", "dialog");
  return button;
};
const find = (words) => (row) => {
  const text = `${nameOf(row)}\n${labelOf(row)}`.toLowerCase();
  return words.every((word) => text.includes(word));
};
const draw = (row) => {
  const whole = byId("whole");
  whole.src = pathOf(data.rows[row][0]);
  whole.alt = `The image ${nameOf(row)}`;
  byId("picture-title").textContent = `Picture ${data.rows[row][0]}`;
  byId("picture-note").textContent = nameOf(row);
  const facts = [make("dt", {}, "Name"), make("dd", {}, nameOf(row))];
  if (labelOf(row)) facts.push(make("dt", {}, "Label"), make("dd", {}, labelOf(row)));
  for (const [layer, neurons] of JSON.parse(data.details[row])) {
    const { name, page } = data.layers[layer];
    facts.push(make("dt", {}, make("a", { href: page }, name)), make("dd", {},
      ...neurons.map(([channel, place]) => make("a", { href: `${page}#channel-${channel}` },
        `channel ${channel} (${place === 1 ? "strongest" : `place ${place}`})`))));
  }
  byId("facts").replaceChildren(make("dl", {}, ...facts));
};
browse({ noun: "picture", link: "picture", find, draw, card, count: data.rows.length,
  number: (row) => data.rows[row][0] });
