// Sliders that need no kernel: each stop has its picture. And what scrolls can be reached by key.
(() => {
  for (const box of document.querySelectorAll(".segleak-frames")) {
    const told = JSON.parse(box.querySelector("script").textContent);
    const inputs = [...box.querySelectorAll("input")];
    const picture = box.querySelector("img");
    const says = box.querySelector(".segleak-says");
    const answers = [...box.querySelectorAll(".segleak-questions b")];
    const show = () => {
      const frame = told.frames[inputs.map((input) => input.value).join(",")];
      const shown = told.pictures[frame.picture];
      picture.src = shown.src;
      picture.alt = shown.alt;
      says.innerHTML = frame.says;
      inputs.forEach((input, k) => {
        const word = told.stops[k][input.value];
        input.setAttribute("aria-valuetext", word);
        input.nextElementSibling.textContent = word;
        input.disabled = frame.off.includes(told.names[k]);
      });
      answers.forEach((answer, k) => {
        if (frame.answers[k]) answer.textContent = frame.answers[k];
      });
    };
    let fetched = false;
    for (const input of inputs) {
      input.addEventListener("input", show);
      input.addEventListener("focus", () => {
        if (!fetched) told.pictures.forEach((shown) => { new Image().src = shown.src; });
        fetched = true;
      });
    }
    // a browser that remembers where a slider stood before a reload
    if (inputs.some((input) => input.value !== input.defaultValue)) show();
  }

  const wide =
    "pre, math, .math, .segleak-picture, .table-wrapper, .cell_output .output, " +
    ".jp-OutputArea-output, .jp-Cell-inputWrapper, .highlight";
  const reach = () => {
    for (const box of document.querySelectorAll(wide)) {
      const scrolls = box.scrollWidth > box.clientWidth + 1;
      if (scrolls) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
  };
  addEventListener("load", () => {
    const sizes = new ResizeObserver(reach);
    for (const box of document.querySelectorAll(wide)) sizes.observe(box);
    reach();
  });
  addEventListener("resize", reach);
  addEventListener("toggle", reach, true);
})();
