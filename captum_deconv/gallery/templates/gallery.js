const hideDead = byId("hide-dead");
const find = findBy((row) => {
  const { channel, dead, neurons } = data.channels[row];
  return { channel, dead, hasName: (fits) => neurons.some(({ sample }) => fits(data.names[sample])) };
}, () => hideDead.checked);
const draw = (row) => drawChannel(data.channels[row]);
const { apply } = browse({
  noun: "channel", link: "channel", find, draw, number: (at) => data.channels[at].channel,
});
hideDead.addEventListener("change", apply);
