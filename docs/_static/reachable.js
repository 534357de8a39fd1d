// What a theme leaves out for those who read by ear or by keyboard.
addEventListener("DOMContentLoaded", () => {
  // Captions of the contents are headings without a level.
  for (const caption of document.querySelectorAll("[role=heading]:not([aria-level])")) {
    caption.setAttribute("aria-level", "2");
  }
  // What scrolls inside the page is reached by the tabulator; what does not scroll is no stop.
  const boxes = document.querySelectorAll("pre, .table-wrapper, .math-wrapper, .output_html");
  const mark = () => {
    for (const box of boxes) {
      if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
  };
  mark();
  addEventListener("resize", mark);
});
