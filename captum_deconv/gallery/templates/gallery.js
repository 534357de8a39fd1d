const hideDead = byId("hide-dead");

/* The filter: numbers and ranges are channels; other words must all be in a sample's name. */
const find = (words) => {
  const ranges = [], rest = [];
  for (const word of words) {
    const found = /^(\d+)(?:(?:-|\.\.)(\d+))?$/.exec(word);
    if (found) ranges.push([+found[1], +(found[2] ?? found[1])]);
    else rest.push(word);
  }
  return (number) => {
    const entry = data.channels[number];
    if (hideDead.checked && entry.dead) return false;
    if (ranges.length && !ranges.some(([a, b]) => entry.channel >= a && entry.channel <= b)) return false;
    return rest.every((word) => word === "dead" ? entry.dead
      : entry.neurons.some((neuron) => data.names[neuron.sample].toLowerCase().includes(word)));
  };
};

const draw = (row) => drawChannel(data.channels[row]);
const { apply } = browse({
  noun: "channel", link: "channel", find, draw, number: (at) => data.channels[at].channel,
});
hideDead.addEventListener("change", apply);
