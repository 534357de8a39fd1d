const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);

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

/* An element with properties, and with children: elements, or text. */
const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};

/* Names with values, and where they lead, as the facts beside a picture. */
const describe = (facts) => {
  byId("facts").replaceChildren(make("dl", {}, ...facts.flatMap(([name, value, href]) => [
    make("dt", {}, name), make("dd", {}, href ? make("a", { href }, value) : value),
  ])));
};

/* The key that leads to the field for words, wherever nothing else is being typed or shown. */
const slash = (field, busy = () => false) => {
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || busy() || event.target === field) return;
    event.preventDefault();
    field.focus();
  });
};
